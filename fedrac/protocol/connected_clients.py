"""Who is there: the hosts of a federation and the clients they serve."""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fedrac.algorithm.streams import Index
from fedrac.partition.partition import NODES
from fedrac.protocol.messages import from_record
from fedrac.protocol.node_bindings import NodeBindings, identity_of
from fedrac.protocol.node_values import MOST_CLIENTS, MOST_EXAMPLES, MOST_OFFERS, line, listed
from fedrac.protocol.replies import content_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hosted:
    """What a host says of itself.

    Attributes:
        clients: ids, (k,) int64.
        examples: how many each has, (k,) int64.
        partition: digest of the partition of common data that its clients belong to; empty where every node has data
            of its own.
        initial: digest of the weights that it can build (`fedrac.protocol.node_state.Initial`).
        offers: digests of the states that it keeps.
        rank: the largest that its clients can train; 0: any.
    """

    clients: Index
    examples: Index
    partition: str
    initial: str = ""
    offers: tuple[str, ...] = ()
    rank: int = 0


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
    about: dict[str, Any] = {"partition": hosted.partition, "initial": hosted.initial, "offers": list(hosted.offers)}
    about |= {"rank": hosted.rank} if hosted.rank else {}
    return RecordDict({"hosted": ArrayRecord(arrays), "about": ConfigRecord(about)})


def decode_hosted(message: Message) -> Hosted:
    """The inverse.

    Raises:
        ValueError, TypeError: the host could not answer, with its reason, or its answer makes no sense.
        KeyError: a field is missing.
    """
    content = content_of(message)
    arrays = from_record(content.array_records["hosted"])
    clients, examples = arrays["clients"], arrays["examples"]
    if clients.ndim != 1 or clients.shape != examples.shape or {clients.dtype, examples.dtype} != {torch.int64}:
        raise ValueError("fields clients and examples are not two lists of integers of one length")
    if (clients < 0).any() or (clients >= MOST_CLIENTS).any():
        raise ValueError(f"a client id is negative, or not below {MOST_CLIENTS}")
    if (examples < 1).any() or (examples > MOST_EXAMPLES).any():
        raise ValueError(f"a client has no examples, or more than {MOST_EXAMPLES}")
    about = content.config_records["about"]
    offers = tuple(_digest(offer) for offer in listed("offers", about["offers"])[:MOST_OFFERS])
    if type(rank := about.get("rank", 0)) is not int or rank < 0:
        raise ValueError("field rank is no whole number from 0")
    digests = _digest(about["partition"]), _digest(about["initial"])
    return Hosted(clients.numpy(), examples.numpy(), *digests, offers, rank)


def _digest(text: Any) -> str:
    return line(text, 64)


_LATE_SECONDS = 60.0  # for a node that joins a run under way to say whom it serves: the others wait meanwhile
_PATIENCE_SECONDS = 60.0  # with a first question; doubled with every further one
_AGAIN_SECONDS = 600.0  # until a node that was left out is asked again


class ConnectedClients:
    """The hosts that are connected now, by node id; each is asked once.

    At the start of a run every fault of a node stops it. A node that joins later must not end what runs well: if it
    cannot serve it is left out, with a warning that says why, until it comes back or ten minutes have passed.

    Where every node has data of its own, a node is one client, and no other node ever is.

    Attributes:
        clients: ids of all clients that they serve, ascending, (M,) int64.
        examples: how many each of them has, (M,) int64.
        bindings: which node is which client, where each has data of its own.
        own_key: by which nodes with data of their own find what their clients keep; empty: by Flower's name of the run.
        drawn: by client, the last round before this process that it was drawn for.
    """

    def __init__(self, workload: Mapping[str, Any], timeout: float) -> None:
        self._workload, self._timeout = workload, timeout
        self._separate = workload.get("partition", {}).get("scheme") == NODES
        self.bindings = NodeBindings()
        self._identities: dict[int, str] = {}  # of the nodes that are there now
        self.hosts: dict[int, Hosted] = {}
        self.clients: Index = np.empty(0, np.int64)
        self.examples: Index = np.empty(0, np.int64)
        self.own_key = ""
        self.drawn: dict[int, int] = {}
        self._began = False
        self._left_out: dict[int, float] = {}  # by node id: when
        self._doubted: set[int] = set()

    def refresh(self, grid: Grid, wanted: int = 1) -> None:
        """Forgets hosts that have gone and asks new ones.

        Where nodes have data of their own, nobody else has the clients that are missing: ``wanted`` clients are waited
        for, as long as for the first node.

        Raises:
            RuntimeError: no host is connected; or, at the start, a host cannot serve or two hosts disagree.
        """
        deadline, told = time.monotonic() + self._timeout, False
        self._update(grid)
        while len(self.clients) < wanted and self._separate and time.monotonic() < deadline:
            if not told:
                log.warning("%d of %d clients are here: waiting for nodes", len(self.clients), wanted)
            told = True
            time.sleep(1)
            self._update(grid)

    def doubt(self, nodes: Iterable[int]) -> None:
        """Has hosts asked again before they are sampled: they failed, and may have been started anew since."""
        self._doubted |= set(nodes) & set(self.hosts)

    def _update(self, grid: Grid) -> None:
        self._identities = {node.node_id: identity_of(node) for node in self._wait(grid)}
        present = set(self._identities)
        again = time.monotonic() - _AGAIN_SECONDS
        self._left_out = {node: at for node, at in self._left_out.items() if node in present and at > again}
        hosts = {node: hosted for node, hosted in self.hosts.items() if node in present - self._doubted}
        self._doubted = set()
        new = sorted(present - set(hosts) - set(self._left_out))
        answers, faults = self._ask(grid, new, min(self._timeout, _LATE_SECONDS) if self._began else self._timeout)
        if not self._began:
            if faults:
                raise RuntimeError(faults[min(faults)])
            self._index(answers)
            self._began = True
            return
        if len(hosts) < len(self.hosts):
            self._index(hosts)
        for node, hosted in answers.items():
            try:
                self._index(self.hosts | {node: hosted})
            except RuntimeError as error:
                faults[node] = str(error)
        for node in sorted(faults):
            log.warning("node %d is left out: %s", node, faults[node])
            self._left_out[node] = time.monotonic()

    def _wait(self, grid: Grid) -> list[NodeInfo]:
        deadline = time.monotonic() + self._timeout
        while not (present := list(grid.get_nodes())):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no node connected within {self._timeout:.0f} s: start a SuperNode, or more time")
            time.sleep(0.2)
        return present

    def _ask(self, grid: Grid, nodes: Sequence[int], timeout: float) -> tuple[dict[int, Hosted], dict[int, str]]:
        """All of ``nodes`` at once: who does not answer costs the time of one. What they host, and faults.

        Silent nodes are asked again: one that was killed with the question, and came back, never hears of it.
        """
        deadline, patience = time.monotonic() + timeout, _PATIENCE_SECONDS
        answers: dict[int, Hosted] = {}
        faults = {node: f"node {node} did not say which clients it serves within {timeout:.0f} s" for node in nodes}
        silent = list(nodes)
        while silent:
            begin, left = time.monotonic(), max(deadline - time.monotonic(), 0.0)
            silent, lost = self._try(grid, silent, min(patience, left), answers, faults)
            if time.monotonic() - begin >= min(patience, left):
                if left <= patience:
                    break
                patience *= 2  # what is answered late is lost, and a slow node works its questions off one by one
            elif lost:
                time.sleep(1)
            else:  # a grid that does not wait has no more to say
                break
        return {node: answers[node] for node in nodes if node in answers}, faults

    def _try(
        self, grid: Grid, nodes: Sequence[int], timeout: float, answers: dict[int, Hosted], faults: dict[int, str]
    ) -> tuple[list[int], bool]:
        """Asks once and enters what is said into ``answers`` and ``faults``.

        Returns:
            The nodes that say nothing, and whether a question was lost: the SuperLink says so in its own name when a
            node went away with it.
        """
        content = encode_question(self._workload)
        questions = [Message(content, node, MessageType.QUERY, group_id="population") for node in nodes]
        silent, lost = list(nodes), False
        for answer in grid.send_and_receive(questions, timeout=timeout):
            node = answer.metadata.src_node_id
            if node not in silent:  # nobody asked it
                lost = lost or answer.has_error()
                continue
            silent.remove(node)
            del faults[node]
            if answer.has_error() and answer.error.code == ErrorCode.NODE_UNAVAILABLE:
                log.warning("node %d has gone: %s", node, line(answer.error.reason))
                continue
            try:
                hosted = decode_hosted(answer)
                self._check(node, hosted)
                answers[node] = hosted
            except KeyError as missing:
                faults[node] = line(f"node {node} cannot serve: field {missing} is missing in its answer")
            except (ValueError, TypeError) as error:
                faults[node] = line(f"node {node} cannot serve: {str(error).removeprefix('raised ')}")
        return silent, lost

    def _check(self, node: int, hosted: Hosted) -> None:
        """Whether the node is of the kind that the run has.

        Raises:
            ValueError: it is not, or it is not who it says.
        """
        if self._separate and hosted.partition:
            raise ValueError(
                "it shares common data, and the run has every node train on its own (partition=nodes): start the "
                "SuperNode with --node-config 'partition-id=N data=\"/data\"'"
            )
        if not self._separate and not hosted.partition:
            raise ValueError("it trains on data of its own only, and the run divides common ones: set partition=nodes")
        if self._separate:
            self.bindings.check(self._identities[node], hosted.clients)

    def _index(self, hosts: dict[int, Hosted]) -> None:
        """Takes the hosts if they go together; otherwise all stays as it was."""
        ids = np.concatenate([np.empty(0, np.int64), *(hosted.clients for hosted in hosts.values())])
        nodes = np.concatenate([np.full(len(h.clients), node, dtype=object) for node, h in hosts.items()] or [ids])
        order = np.argsort(ids, kind="stable")
        ids, nodes = ids[order], nodes[order]
        if (double := ids[1:] == ids[:-1]).any():
            first = int(double.argmax())
            raise RuntimeError(
                f"client {ids[first]} is served by nodes {nodes[first]} and {nodes[first + 1]}: "
                "give every node a partition-id of its own"
            )
        if len({hosted.partition for hosted in hosts.values()}) > 1:
            raise RuntimeError("the nodes split the data differently: give all the same data and package versions")
        if self._separate:
            self.bindings.bind({int(h.clients[0]): self._identities[node] for node, h in hosts.items()})
        self.hosts, self.clients, self._nodes = hosts, ids, nodes
        self.examples = np.concatenate([np.empty(0, np.int64), *(h.examples for h in hosts.values())])[order]

    @property
    def most_examples(self) -> int:
        """Of one client."""
        return int(self.examples.max(initial=1))

    def examples_of(self, cohort: Sequence[int]) -> dict[int, int]:
        """How many examples each client of the cohort has, as its host says."""
        counts = self.examples[self._places(cohort)]
        return dict(zip(cohort, counts.tolist(), strict=True))

    def by_host(self, cohort: Sequence[int]) -> dict[int, list[int]]:
        """The cohort by node id; nodes in order of their first client, clients ascending."""
        hosts: dict[int, list[int]] = {}
        ordered = sorted(cohort)
        for client, place in zip(ordered, self._places(ordered).tolist(), strict=True):
            hosts.setdefault(self._nodes[place], []).append(client)
        return hosts

    def _places(self, cohort: Sequence[int]) -> Index:
        """Where clients are in ``clients``: to search a million for a thousand takes longer than their messages."""
        ids = np.array(cohort, np.int64)
        first, last = (int(self.clients[place]) for place in (0, -1)) if len(ids) else (0, -1)
        if last - first + 1 == len(self.clients) and first <= ids.min(initial=first) and ids.max(initial=last) <= last:
            ids -= first  # there are no gaps
            return ids
        found: Index = np.searchsorted(self.clients, ids)
        return found
