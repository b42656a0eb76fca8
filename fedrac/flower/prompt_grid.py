"""A Grid that takes replies soon after they come.

Flower's grids look for replies every 0.1 s (simulation) or 3 s (deployment), which is most of a short round. A reply
that is still being uploaded is waited for by Flower itself, whatever the timeout.
"""

import math
import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_LEAST, _MOST = 0.005, 3.0  # seconds between two looks
_SHARE = 0.1  # of the time waited so far: a round takes at most so much longer, and a long one is asked for rarely


class PromptGrid(Grid):
    """Another grid, but for how often it looks for replies.

    Args:
        grid: does all the rest.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Sets the run that messages belong to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are connected."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The same, with what is known of each."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages; returns the ids by which replies are pulled."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Sends messages and waits for the replies, ``timeout`` seconds at most; returns those that came."""
        begin, most = time.monotonic(), math.inf if timeout is None else timeout
        waiting = set(self.push_messages(messages))  # for what cannot be sent, a deployment gives an id, and an error
        replies: list[Message] = []
        while waiting:
            found = list(self.pull_messages(waiting))
            replies += found
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            waited = time.monotonic() - begin
            if not waiting or waited >= most:
                break
            time.sleep(min(max(_SHARE * waited, _LEAST), _MOST, most - waited))
        return replies
