"""Replies are taken as they come, whatever grid they come over."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run
from runs import start, strategy

from fedrac.flower import client_app, prompt_grid
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.prompt_grid import PromptGrid
from fedrac.protocol.round_report import RoundReport


class SlowGrid(InProcessGrid):
    """The reply of node n can be pulled from the n-th look on. Node 0 is not there: it has an error for a reply."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        super().__init__(app, nodes)
        self.looks, self.ready = 0, dict[str, int]()

    def _deliver(self, message: Message) -> str:
        node = message.metadata.dst_node_id
        key = super()._deliver(message) if node else self._refuse(message)
        self.ready[key] = self.looks + node
        return key

    def _refuse(self, message: Message) -> str:
        """As a SuperLink does: the message gets no id."""
        message.metadata.__dict__["_message_id"] = ""
        self._replies[""] = Message(Error(ErrorCode.MESSAGE_UNAVAILABLE), reply_to=message)
        return ""

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


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept: that is all the time there is."""
    slept = list[float]()
    monkeypatch.setattr(prompt_grid.time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(prompt_grid.time, "sleep", slept.append)
    return slept


def asked(nodes: Iterable[int]) -> list[Message]:
    return [Message(RecordDict(), node, "query") for node in nodes]


def nodes_of(replies: Iterable[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def test_every_reply_is_taken_once(echo: ClientApp, pauses: list[float]) -> None:
    slow = SlowGrid(echo, 4)
    assert nodes_of(PromptGrid(slow).send_and_receive(asked([3, 1, 4]))) == [1, 3, 4]
    assert slow.looks == 4 and len(pauses) == 3


def test_what_comes_too_late_is_left_out(echo: ClientApp, pauses: list[float]) -> None:
    assert nodes_of(PromptGrid(SlowGrid(echo, 9)).send_and_receive(asked([1, 9]), timeout=0.02)) == [1]
    assert sum(pauses) == pytest.approx(0.02)


def test_without_time_there_is_one_look(echo: ClientApp, pauses: list[float]) -> None:
    assert nodes_of(PromptGrid(SlowGrid(echo, 2)).send_and_receive(asked([1, 2]), timeout=0)) == [1]
    assert not pauses


def test_one_looks_less_often_the_longer_it_takes(echo: ClientApp, pauses: list[float]) -> None:
    PromptGrid(SlowGrid(echo, 100)).send_and_receive(asked([100]))
    assert len(pauses) == 99
    assert pauses == sorted(pauses)
    assert all(pause <= max(0.005, 0.1 * sum(pauses[:i])) + 1e-9 for i, pause in enumerate(pauses))
    assert pauses[-1] == 3.0


def test_a_message_that_cannot_be_sent_has_its_error(echo: ClientApp) -> None:
    refused, good = PromptGrid(SlowGrid(echo, 1)).send_and_receive(asked([0, 1]))
    assert refused.error.code == ErrorCode.MESSAGE_UNAVAILABLE and not good.has_error()


def test_the_rest_is_the_other_grids(echo: ClientApp) -> None:
    grid = InProcessGrid(echo, 2)
    prompt = PromptGrid(grid)
    assert list(prompt.get_node_ids()) == [1, 2] and [node.node_id for node in prompt.get_nodes()] == [1, 2]
    prompt.set_run(Run.create_empty(7))
    assert prompt.run is grid.run and grid.run.run_id == 7
    made = prompt.create_message(RecordDict(), "query", 2, "9", 4.0)
    assert (made.metadata.dst_node_id, made.metadata.group_id, made.metadata.ttl) == (2, "9", 4.0)
    assert nodes_of(prompt.pull_messages(prompt.push_messages([made]))) == [2]


def test_a_run_over_it_is_the_same() -> None:
    runs = []
    for grid in (InProcessGrid(client_app.app, 3), PromptGrid(SlowGrid(client_app.app, 3))):
        one, reports = strategy(), list[RoundReport]()
        one.start(grid, start(), 3, on_round=reports.append)
        runs.append((one.effective_weights(), [replace(report, seconds=0.0) for report in reports]))
    (weights, reports), (others, other_reports) = runs
    assert all(weights[name].equal(others[name]) for name in weights) and reports == other_reports
