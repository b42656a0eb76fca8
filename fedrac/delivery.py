"""Messages and their replies, so that a worker process that dies costs time and not clients.

Flower's simulation answers a message whose Ray actor has died with an error, and keeps the dead actor: it lies on top
of the pile of idle ones, fails at once, and so takes message after message. What a client finds does not depend on
where it is computed: a message that was lost in this way is sent again.
"""

import logging
import time
from collections.abc import Iterable

from flwr.app import Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

log = logging.getLogger(__name__)

TRIES = 5  # in a row that bring no reply
_PAUSE = 0.5  # seconds; living actors answer nothing in less, an unreachable one takes longer to fail


def deliver(grid: Grid, messages: Iterable[Message], timeout: float) -> list[Message]:
    """Sends ``messages``, one a node at most, and waits for the replies; those that get lost are sent again.

    Args:
        grid: reaches the nodes.
        messages: what the nodes are asked.
        timeout: seconds to wait for all of it.

    Returns:
        The replies. A message that was lost again and again has an error for a reply.
    """
    deadline = time.monotonic() + timeout
    waiting = {message.metadata.dst_node_id: message for message in messages}
    replies: list[Message] = []
    fruitless = 0
    while True:
        answers = list(grid.send_and_receive(list(waiting.values()), timeout=deadline - time.monotonic()))
        lost = {a.metadata.src_node_id: a for a in answers if _is_lost(a) and a.metadata.src_node_id in waiting}
        replies += [a for a in answers if a.metadata.src_node_id not in lost or not _is_lost(a)]
        fruitless = fruitless + 1 if len(lost) == len(waiting) else 0
        if not lost or fruitless == TRIES or time.monotonic() + _PAUSE > deadline:
            return replies + list(lost.values())
        log.warning("%d of %d messages were lost and are sent again", len(lost), len(waiting))
        if fruitless:
            _stir(grid)
        waiting = {node: _again(waiting[node]) for node in lost}


def _is_lost(answer: Message) -> bool:
    """Whether the message did not reach a client. What clients raise has other codes."""
    return answer.has_error() and answer.error.code == ErrorCode.UNKNOWN


def _again(message: Message) -> Message:
    told = message.metadata
    return Message(message.content, told.dst_node_id, told.message_type, group_id=told.group_id)


def _stir(grid: Grid) -> None:
    """Puts living actors on top of the pile: all are asked nothing, the dead ones are still failing or have failed."""
    grid.push_messages([Message(RecordDict(), node, MessageType.QUERY) for node in grid.get_node_ids()])
    time.sleep(_PAUSE)
