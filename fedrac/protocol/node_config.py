"""What the operator of a node says of it: ``flower-supernode --node-config 'KEY=VALUE ...'``."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrac.loading import cache
from fedrac.partition.partition import NODES

_KEYS = ("partition-id", "num-partitions", "data", "tell-examples", "state", "policy", "idle", "rank")
_MOST = 2**20
MEMORY = "memory"  # for `state`: one process answers all messages of the node, so that its memory is enough


@dataclass(frozen=True)
class NodeConfig:
    """One node.

    Attributes:
        place: ``partition-id``, from 0; with data of its own, the id of the one client that the node is.
        count: ``num-partitions``: how many nodes share common data.
        data: a place, see `fedrac.data.own.load`; None where the node shares common data.
        tell_examples: the server is told of at most so many examples; 1 hides the number altogether.
        state: a folder for the node's copy of the weights; `MEMORY`; None: where it is usual, see
            `fedrac.protocol.catch_up`.
        policy: a file, or `fedrac.protocol.policy.OPEN`; see there.
        idle: seconds without a message after which the node's worker ends (`fedrac.flower.worker`); 0: it has none.
            None: as usual.
        rank: the largest that its clients can train (`Method.ranks`); 0: any.
    """

    place: int
    count: int
    data: str | None = None
    tell_examples: int | None = None
    state: str | None = None
    policy: str | None = None
    idle: int | None = None
    rank: int = 0

    @property
    def folder(self) -> Path:
        """For what is to outlive the process: ``state``, or one in the cache."""
        named = self.state and self.state != MEMORY
        return Path(str(self.state)).expanduser() if named else cache.root() / "state" / f"node-{self.place}"

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "NodeConfig":
        """From the values of ``--node-config``.

        Raises:
            ValueError: a key is missing or misspelt, or a value is not what it must be.
        """
        for key in set(config) - set(_KEYS):  # keys of other apps are none of our business
            if near := difflib.get_close_matches(key, _KEYS, 1, 0.8):
                raise ValueError(f"node-config has no key {key}; did you mean {near[0]}?")
        data, told = config.get("data"), config.get("tell-examples")
        if data is not None and not (isinstance(data, str) and data):
            raise ValueError(f"node-config data={data!r} must be a path or an import path, in quotes")
        if told is not None and (data is None or type(told) is not int or told < 1):
            raise ValueError(f"node-config tell-examples={told!r}: a whole number from 1, for a node with data=")
        if (idle := config.get("idle")) is not None and (type(idle) is not int or idle < 0):
            raise ValueError(f"node-config idle={idle!r}: seconds, a whole number from 0")
        if type(rank := config.get("rank", 0)) is not int or rank < 0:
            raise ValueError(f"node-config rank={rank!r}: a whole number from 1")
        try:
            place = int(config["partition-id"])
            count = int(config["num-partitions"]) if data is None else _MOST
        except KeyError as missing:
            raise ValueError(
                f"node-config has no {missing}: start the SuperNode with --node-config 'partition-id=0 "
                "num-partitions=2', or 'partition-id=0 data=\"/data\"' for data of its own"
            ) from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"node-config partition-id and num-partitions must be whole numbers: {error}") from None
        if not 0 <= place < count:
            raise ValueError(f"node-config partition-id={place} must lie in 0 .. {count - 1}")
        for key, what in (("state", "folder"), ("policy", "file")):
            if not isinstance(value := config.get(key, ""), str):
                raise ValueError(f"node-config {key}={value!r} must be a {what}, in quotes")
        return cls(place, count, data, told, config.get("state"), config.get("policy"), idle, rank)


def own_nodes(partition: Mapping[str, Any]) -> list[dict[str, int | str]]:
    """The node-configs of an in-process run whose nodes have data of their own; none where they share common data.

    Raises:
        ValueError: ``partition`` names no folders.
    """
    if partition.get("scheme") != NODES:
        return []
    if not partition.get("folders"):
        raise ValueError("partition.folders is not set: a run in one process needs the folders of all nodes' data")
    paths = [str(Path(folder).expanduser().absolute()) for folder in partition["folders"]]
    return [{"partition-id": place, "data": path} for place, path in enumerate(paths)]
