"""What a runtime loses is sent again; what clients say is not asked twice."""

from collections import Counter
from collections.abc import Iterable

import pytest
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from runs import start, strategy

from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol import resending
from fedrac.protocol.resending import deliver
from fedrac.protocol.round_report import CohortFailure, RoundReport


class LosingGrid(InProcessGrid):
    """Loses the next ``losses[node]`` training messages to a node, with the error that Flower then makes.

    Of the questions for a sign of life it loses the first ``signs``.
    """

    def __init__(self, losses: dict[int, int], code: int = ErrorCode.UNKNOWN, signs: int = 0) -> None:
        super().__init__(client_app.app, 3)
        self.losses, self.code, self.signs = losses, code, signs
        self.sent: list[tuple[str, int]] = []

    def _deliver(self, message: Message) -> str:
        told = message.metadata
        self.sent.append((told.message_type, told.dst_node_id))
        key = super()._deliver(message)
        if self._is_lost(told.message_type, told.dst_node_id):
            lost = Message(Error(self.code, "the actor died"), reply_to=message)
            lost.metadata.__dict__["_src_node_id"] = told.dst_node_id
            self._replies[key] = lost
        return key

    def _is_lost(self, kind: str, node: int) -> bool:
        if kind == MessageType.QUERY:
            self.signs -= 1
            return self.signs >= 0
        self.losses[node] = self.losses.get(node, 0) - 1
        return self.losses[node] >= 0


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resending, "SIGN_TAKES", 0.0)


def messages(nodes: Iterable[int] = (1, 2, 3)) -> list[Message]:
    return [Message(RecordDict(), node, MessageType.TRAIN, group_id="7") for node in nodes]


def counts(grid: LosingGrid, kind: str = MessageType.TRAIN) -> Counter[int]:
    return Counter(node for type_, node in grid.sent if type_ == kind)


def test_what_is_lost_is_sent_again() -> None:
    grid = LosingGrid({2: 3, 3: 1})
    replies = deliver(grid, messages(), 60)
    assert sorted(r.metadata.src_node_id for r in replies) == [1, 2, 3]
    assert not any(reply.has_error() for reply in replies)
    assert counts(grid) == {1: 1, 2: 4, 3: 2}


def test_idle_actors_are_stirred_only_when_nothing_came_back() -> None:
    grid = LosingGrid({2: 1, 3: 1})
    deliver(grid, messages(), 60)
    assert not counts(grid, MessageType.QUERY)
    grid = LosingGrid({2: 2})
    deliver(grid, messages(), 60)
    assert counts(grid, MessageType.QUERY) == {1: 1, 2: 1, 3: 1}


def test_a_sign_of_life_is_asked_for_until_one_comes() -> None:
    grid = LosingGrid({2: 2}, signs=3 * 40 + 1)  # of the 41st time two of three nodes answer
    replies = deliver(grid, messages(), 60)
    assert not any(reply.has_error() for reply in replies)
    assert counts(grid) == {1: 1, 2: 3, 3: 1}
    assert counts(grid, MessageType.QUERY) == {1: 41, 2: 41, 3: 41}


def test_without_a_sign_of_life_nothing_more_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resending, "_PATIENCE", 0.02)
    grid = LosingGrid({2: 2}, signs=10**9)
    replies = deliver(grid, messages(), 60)
    assert {r.metadata.src_node_id: r.has_error() for r in replies} == {1: False, 2: True, 3: False}
    assert counts(grid) == {1: 1, 2: 2, 3: 1} and counts(grid, MessageType.QUERY)[2] > 1


def test_a_message_that_is_always_lost_ends_as_an_error() -> None:
    grid = LosingGrid({2: 1000})
    replies = deliver(grid, messages(), 60)
    assert {r.metadata.src_node_id: r.has_error() for r in replies} == {1: False, 2: True, 3: False}
    assert counts(grid)[2] == 1 + resending.TRIES


def test_no_more_is_sent_when_the_time_is_over() -> None:
    grid = LosingGrid({2: 1000})
    assert [r.has_error() for r in deliver(grid, messages([2]), 0.0)] == [True]
    assert counts(grid) == {2: 1}


@pytest.mark.parametrize("code", [ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.NODE_UNAVAILABLE])
def test_other_errors_are_answers(code: int) -> None:
    grid = LosingGrid({2: 1}, code)
    assert sum(reply.has_error() for reply in deliver(grid, messages(), 60)) == 1
    assert counts(grid) == {1: 1, 2: 1, 3: 1}


def test_nothing_to_send() -> None:
    assert deliver(LosingGrid({}), [], 60) == []


def test_losses_do_not_change_a_run() -> None:
    undisturbed, disturbed = strategy(), strategy()
    undisturbed.start(LosingGrid({}), start(), 3)
    disturbed.start(LosingGrid({1: 2, 2: 1, 3: 4}), start(), 3)
    assert undisturbed.state is not None and disturbed.state is not None
    for name, value in undisturbed.state.weights.items():
        assert disturbed.state.weights[name].equal(value)


def test_what_is_lost_for_good_is_refused_with_the_reason() -> None:
    reports: list[RoundReport] = []
    lenient = strategy(server=ServerSpec(cohort_size=6, min_fraction=0.3))
    lenient.start(LosingGrid({2: 1000}), start(), 2, on_round=reports.append)
    assert [str(refusal) for report in reports for refusal in report.refused] == [
        "clients 1, 4: raised the actor died"
    ] * 2


def test_what_is_lost_for_good_stops_a_strict_run() -> None:
    strict = strategy(server=ServerSpec(cohort_size=6))
    with pytest.raises(CohortFailure, match=r"4 of 6 clients answered well.*clients 1, 4: raised the actor died"):
        strict.start(LosingGrid({2: 1000}), start(), 2)
