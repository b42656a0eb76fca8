"""Which node is which client, where every node has data of its own: for the whole run, and when it is gone on with."""

import hashlib
from collections.abc import Callable, Mapping

from flwr.proto.node_pb2 import NodeInfo

from fedrac.algorithm.streams import Index

Bound = Mapping[int, str]


def identity_of(node: NodeInfo) -> str:
    """What stays the same when a node is started again.

    That is its key, by which the SuperLink knows it (SHA-256 of its bytes, hex). A node that was given no key makes a
    new one at every start. Where a grid tells no keys, it is the node's number.
    """
    return hashlib.sha256(node.public_key).hexdigest() if node.public_key else f"node {node.node_id}"


class NodeBindings:
    """Keeps a client's number for the node that has had it first, also while that node is away."""

    def __init__(self) -> None:
        self._node: dict[int, str] = {}
        self._changed: Callable[[Bound], None] = lambda _: None

    def watch(self, bound: Bound, changed: Callable[[Bound], None] = lambda _: None) -> None:
        """Goes on with what an earlier part of the run has bound.

        Args:
            bound: identity of the node, by client.
            changed: is told of all bindings, whenever there is a new one.
        """
        self._node, self._changed = {**bound, **self._node}, changed
        if self._node != dict(bound):
            changed(self._node)

    def check(self, node: str, clients: Index) -> None:
        """Whether a node that says it is ``clients`` may be.

        Raises:
            ValueError: it is not one client; or another than before; or one that another node is.
        """
        if len(clients) != 1:
            raise ValueError(
                f"it says that it is {len(clients)} clients, and with data of its own (partition=nodes) a node is one: "
                "start the SuperNode with --node-config 'partition-id=N data=\"/data\"'"
            )
        client = int(clients[0])
        if self._node.get(client, node) != node:
            raise ValueError(
                f"client {client} of this run is the node with the key {self._node[client][:16]}, this one has "
                f"{node[:16]}: start it with the key that it began with (--auth-supernode-private-key), or give it a "
                "partition-id of its own"
            )
        if had := [other for other, its in self._node.items() if its == node and other != client]:
            raise ValueError(f"it was client {had[0]} in this run, and now says {client}: keep its partition-id")

    def bind(self, nodes: Bound) -> None:
        """The nodes are these clients from now on."""
        if new := {client: node for client, node in nodes.items() if client not in self._node}:
            self._node |= new
            self._changed(self._node)
