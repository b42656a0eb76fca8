"""Messages and their replies, so that a worker process that dies costs time and not clients.

Flower's simulation answers a message whose Ray actor has died with an error, and keeps the dead actor: it lies on top
of the pile of idle ones, fails at once, and so takes message after message. What a client finds does not depend on
where it is computed: a message that was lost in this way is sent again. When all were lost, a living actor is brought
to the top first: nodes are asked for a sign of life, which takes a living actor a while. One that is reached while
the dead ones are failing gives its sign last, and lies on top of them then. On a busy core one round of questions in
five reaches one, so they are asked until a sign comes.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

log = logging.getLogger(__name__)

More = Callable[[Message], RecordDict | None]

TRIES = 20  # in a row that bring no reply: Ray takes half a minute to call a node dead
SIGN_TAKES = 0.1  # seconds, for a living actor to give a sign of life; a dead one fails in 0.001
_MORE = 2  # times that a node is given more
_SIGN = 1.0  # seconds to wait for signs; an unreachable actor takes longer to fail, and is out of the way meanwhile
_ASKED = 64  # nodes at most: Flower has 32 actors at work at a time
_PAUSE = 0.01  # seconds between two questions
_PATIENCE = 30.0  # seconds without a sign until no actor is taken to live


def deliver(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    more: More = lambda _: None,
) -> list[Message]:
    """Sends ``messages``, one a node at most, and waits for the replies; those that get lost are sent again.

    Args:
        grid: reaches the nodes.
        messages: what the nodes are asked.
        timeout: seconds to wait for all of it.
        more: what a node still needs, if its answer says so; it is sent together with what it was asked before. None if
            it needs nothing. A node is given more twice at most.

    Returns:
        The replies. A message that was lost again and again has an error for a reply.
    """
    deadline = time.monotonic() + timeout
    waiting = {message.metadata.dst_node_id: message for message in messages}
    replies: list[Message] = []
    helped: Counter[int] = Counter()
    fruitless = 0
    while True:
        answers = list(grid.send_and_receive(list(waiting.values()), timeout=max(deadline - time.monotonic(), 0.0)))
        lost, completed = {}, {}
        for answer in answers:
            node = answer.metadata.src_node_id
            if node in waiting and _is_lost(answer):
                lost[node] = answer
            elif node in waiting and helped[node] < _MORE and (rest := more(answer)) is not None:
                completed[node] = _again(waiting[node], rest)
            else:
                replies.append(answer)
        helped.update(completed.keys())
        fruitless = fruitless + 1 if len(lost) == len(waiting) else 0
        if lost and not _may_be_sent_again(grid, fruitless, deadline):
            replies += lost.values()
            lost = {}
        if not lost and not completed:
            return replies
        if lost:
            log.warning("%d of %d messages were lost and are sent again", len(lost), len(waiting))
        waiting = {node: _again(waiting[node]) for node in lost} | completed


def _is_lost(answer: Message) -> bool:
    """Whether the message did not reach a client. What clients raise has other codes."""
    return answer.has_error() and answer.error.code == ErrorCode.UNKNOWN


def _again(message: Message, more: Mapping[str, Any] | None = None) -> Message:
    told = message.metadata
    content = RecordDict({**message.content, **more}) if more else message.content
    return Message(content, told.dst_node_id, told.message_type, group_id=told.group_id)


def _may_be_sent_again(grid: Grid, fruitless: int, deadline: float) -> bool:
    if fruitless == TRIES or time.monotonic() >= deadline:
        return False
    return not fruitless or _bring_up_a_living_actor(grid, min(deadline, time.monotonic() + _PATIENCE))


def _bring_up_a_living_actor(grid: Grid, until: float) -> bool:
    """Asks for signs of life until one comes; returns whether one came by ``until``, by the monotonic clock."""
    while time.monotonic() < until:
        asked = [Message(RecordDict(), node, MessageType.QUERY) for node in islice(grid.get_node_ids(), _ASKED)]
        if any(not answer.has_error() for answer in grid.send_and_receive(asked, timeout=_SIGN)):
            return True
        time.sleep(_PAUSE)
    return False
