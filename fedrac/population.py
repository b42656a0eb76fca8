"""Who is there: the hosts of a federation and the clients they serve."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrac.replies import content_of
from fedrac.streams import Index


@dataclass(frozen=True)
class Hosted:
    """The clients of one host: ids and numbers of examples, (k,) int64 each, and the digest of the partition."""

    clients: Index
    examples: Index
    partition: str


def encode_question(workload: Mapping[str, Any]) -> RecordDict:
    """Asks a host which clients of ``workload`` it serves."""
    return RecordDict({"question": ConfigRecord({"workload": json.dumps(dict(workload))})})


def decode_question(content: RecordDict) -> dict[str, Any]:
    """The workload that the server asks about."""
    workload: dict[str, Any] = json.loads(str(content.config_records["question"]["workload"]))
    return workload


def encode_hosted(hosted: Hosted) -> RecordDict:
    """A host's answer."""
    arrays = {"clients": Array(hosted.clients), "examples": Array(hosted.examples)}
    return RecordDict({"hosted": ArrayRecord(arrays), "about": ConfigRecord({"partition": hosted.partition})})


def decode_hosted(message: Message) -> Hosted:
    """The inverse; raises ValueError with the host's reason if it could not answer."""
    content = content_of(message)
    arrays = {name: array.numpy() for name, array in content.array_records["hosted"].items()}
    return Hosted(arrays["clients"], arrays["examples"], str(content.config_records["about"]["partition"]))


class Population:
    """The hosts that are connected now, by node id; each is asked once.

    Attributes:
        clients: ids of all clients that they serve, ascending, (M,) int64.
    """

    def __init__(self, workload: Mapping[str, Any], timeout: float) -> None:
        self._workload, self._timeout = workload, timeout
        self.hosts: dict[int, Hosted] = {}
        self.clients: Index = np.empty(0, np.int64)

    def refresh(self, grid: Grid) -> None:
        """Forgets hosts that have gone and asks new ones.

        Raises:
            RuntimeError: no host is connected, a host cannot serve, or two hosts disagree.
        """
        present = set(self._wait(grid))
        if present == set(self.hosts):
            return
        self.hosts = {node: hosted for node, hosted in self.hosts.items() if node in present}
        if new := sorted(present - set(self.hosts)):
            self._ask(grid, new)
        self._index()

    def _wait(self, grid: Grid) -> list[int]:
        deadline = time.monotonic() + self._timeout
        while not (present := list(grid.get_node_ids())):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no node connected within {self._timeout:.0f} s: start a SuperNode, or more time")
            time.sleep(0.2)
        return present

    def _ask(self, grid: Grid, nodes: Sequence[int]) -> None:
        content = encode_question(self._workload)
        questions = [Message(content, node, MessageType.QUERY, group_id="population") for node in nodes]
        for answer in grid.send_and_receive(questions, timeout=self._timeout):
            node = answer.metadata.src_node_id
            try:
                self.hosts[node] = decode_hosted(answer)
            except (ValueError, KeyError) as error:
                raise RuntimeError(f"node {node} cannot serve: {str(error).removeprefix('raised ')}") from error
        if silent := [node for node in nodes if node not in self.hosts]:
            raise RuntimeError(f"node {silent[0]} did not say which clients it serves within {self._timeout:.0f} s")

    def _index(self) -> None:
        ids = np.concatenate([hosted.clients for hosted in self.hosts.values()])
        nodes = np.concatenate([np.full(len(h.clients), node, dtype=object) for node, h in self.hosts.items()])
        order = np.argsort(ids, kind="stable")
        self.clients, self._nodes = ids[order], nodes[order]
        if (double := self.clients[1:] == self.clients[:-1]).any():
            first = int(double.argmax())
            raise RuntimeError(
                f"client {self.clients[first]} is served by nodes {self._nodes[first]} and {self._nodes[first + 1]}: "
                "give every node a partition-id of its own"
            )
        if len({hosted.partition for hosted in self.hosts.values()}) > 1:
            raise RuntimeError("the nodes split the data differently: give all the same data and package versions")

    def by_host(self, cohort: Sequence[int]) -> dict[int, list[int]]:
        """The cohort by node id; nodes in order of their first client, clients ascending."""
        hosts: dict[int, list[int]] = {}
        for place in np.searchsorted(self.clients, sorted(cohort)):
            hosts.setdefault(self._nodes[place], []).append(int(self.clients[place]))
        return hosts
