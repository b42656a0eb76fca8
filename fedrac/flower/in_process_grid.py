"""The in-process Grid: Flower's interface between server and clients with neither Ray nor sockets.

Messages and replies are the same as in Flower's simulation and deployment; they are handed over as objects.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedrac.protocol.node_config import MEMORY
from fedrac.protocol.policy import OPEN

# Of every node's configuration: what this process remembers of the weights need not be sent to it, and whoever started
# this process may name what he likes.
_OURS = {"state": MEMORY, "policy": OPEN}


class InProcessGrid(Grid):
    """Runs a ClientApp in this process, one node after another.

    Args:
        client_app: answers the messages.
        nodes: how many nodes, which share the clients; or the node-config of each. Node ids are 1, 2, ...

    Raises:
        ValueError: ``nodes`` is less than 1.
    """

    def __init__(self, client_app: ClientApp, nodes: int | Sequence[Mapping[str, int | str]] = 1) -> None:
        if isinstance(nodes, int):
            if nodes < 1:
                raise ValueError(f"runtime.hosts={nodes} must be at least 1")
            nodes = [{"partition-id": place, "num-partitions": nodes} for place in range(nodes)]
        self._app = client_app
        self._contexts = {
            node: Context(1, node, {**_OURS, **config}, RecordDict(), {}) for node, config in enumerate(nodes, start=1)
        }
        self._run = Run.create_empty(1)
        self._replies: dict[str, Message] = {}
        self._sent = 0
        _identify()

    def set_run(self, run: Run) -> None:
        """Sets the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """1 .. nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answers every message at once and keeps the replies until they are pulled."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages; each can be pulled once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies to these messages. Time-outs do not apply: a node here is never away."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        self._sent += 1
        _metadata(message)["_message_id"] = str(self._sent)
        context = self._contexts[message.metadata.dst_node_id]
        try:
            reply = self._app(message, context)
        except Exception as error:  # as Flower's runtimes do: a client's exception is an error reply
            reason = f"{type(error).__name__}: {error}"
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        _metadata(reply)["_src_node_id"] = message.metadata.dst_node_id
        self._replies[message.metadata.message_id] = reply
        return message.metadata.message_id


def _identify() -> None:
    """Messages name the task that makes them. Where Flower runs this process, that is already known, and stays."""
    try:
        _ = TaskIdentity.task_id
    except RuntimeError:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1


def _metadata(message: Message) -> dict[str, Any]:
    """Flower's runtimes set ids in the metadata's ``__dict__``: its properties are read-only."""
    values: dict[str, Any] = message.metadata.__dict__
    return values
