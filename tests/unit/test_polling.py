"""Replies are taken as they come, whatever grid they come over."""

from collections.abc import Iterable

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from runs import start, strategy

from fedrac import client, polling
from fedrac.grid import InProcessGrid
from fedrac.polling import PromptGrid


class SlowGrid(InProcessGrid):
    """The reply of node n can be pulled from the n-th look on; node 0 stands for a message that cannot be sent."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        super().__init__(app, nodes)
        self.looks, self.ready = 0, dict[str, int]()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        keys = [self._deliver(m) if m.metadata.dst_node_id else None for m in sent]
        self.ready |= {k: self.looks + m.metadata.dst_node_id for k, m in zip(keys, sent, strict=True) if k}
        return keys  # type: ignore[return-value]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.looks += 1
        return super().pull_messages([key for key in message_ids if self.looks >= self.ready[key]])

    def send_and_receive(self, *_: object, **__: object) -> list[Message]:
        raise AssertionError("this would wait as Flower does")


@pytest.fixture
def echo() -> ClientApp:
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    return app


def asked(nodes: Iterable[int]) -> list[Message]:
    return [Message(RecordDict(), node, "query") for node in nodes]


def test_every_reply_is_taken_once(echo: ClientApp) -> None:
    slow = SlowGrid(echo, 4)
    replies = PromptGrid(slow).send_and_receive(asked([3, 1, 4]))
    assert [reply.metadata.src_node_id for reply in replies] == [1, 3, 4]
    assert slow.looks == 4


def test_what_comes_too_late_is_left_out(echo: ClientApp, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(polling.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(polling.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    replies = PromptGrid(SlowGrid(echo, 9)).send_and_receive(asked([1, 9]), timeout=0.02)
    assert [reply.metadata.src_node_id for reply in replies] == [1]
    assert now == [pytest.approx(0.02)]


def test_one_looks_less_often_the_longer_it_takes(echo: ClientApp, monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = [0.0], list[float]()
    monkeypatch.setattr(polling.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        polling.time, "sleep", lambda seconds: (pauses.append(seconds), now.append(now.pop() + seconds))
    )
    PromptGrid(SlowGrid(echo, 100)).send_and_receive(asked([100]))
    assert len(pauses) == 99
    assert pauses == sorted(pauses)
    assert all(pause <= max(0.005, 0.1 * sum(pauses[:i])) + 1e-9 for i, pause in enumerate(pauses))
    assert pauses[-1] == 3.0


def test_a_message_that_cannot_be_sent_is_not_waited_for(echo: ClientApp) -> None:
    (reply,) = PromptGrid(SlowGrid(echo, 1)).send_and_receive(asked([0, 1]))
    assert reply.metadata.src_node_id == 1


def test_a_run_over_it_is_the_same() -> None:
    plain, slow = strategy(), strategy()
    plain.start(InProcessGrid(client.app, 3), start(), 3)
    slow.start(PromptGrid(SlowGrid(client.app, 3)), start(), 3)
    one, other = plain.effective_weights(), slow.effective_weights()
    assert all(one[name].equal(other[name]) for name in one)
