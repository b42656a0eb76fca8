"""Nodes that die, hang, come back, join late, or answer nonsense: round by round, as a script says."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, MessageType
from flwr.common.constant import ErrorCode
from runs import arrays, equal, node_of, start, strategy

from fedrac.algorithm.selection import draw_cohort
from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.messages import to_record
from fedrac.protocol.round_report import CohortFailure, RoundReport

NODES = 3  # of six clients: node n serves n - 1 and n + 2
Fault = Callable[[Message], list[Message]]


class Scripted(InProcessGrid):
    """Nodes that are away in some rounds, and answers to training that a fault replaces.

    Attributes:
        away: by round, nodes that are not connected.
        faults: by round and node, what becomes of the answer.
        asked: nodes that were asked whom they serve.
    """

    def __init__(
        self, faults: Mapping[tuple[int, int], Fault] | None = None, away: Mapping[int, set[int]] | None = None
    ) -> None:
        super().__init__(client_app.app, NODES)
        self.faults, self.away = faults or {}, away or {}
        self.round, self.asked = 1, []

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node not in self.away.get(self.round, set())]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            (reply,) = super().send_and_receive([message])
            if message.metadata.message_type == MessageType.QUERY:
                self.asked.append(node_of(reply))
                replies.append(reply)
                continue
            fault = self.faults.get((int(message.metadata.group_id), node_of(reply)), lambda good: [good])
            replies += fault(reply)
        return replies


def run(
    grid: Scripted, rounds: int = 3, least: float = 0.5, size: int = 6, **changes: Any
) -> tuple[FedRacLora, list[RoundReport]]:
    found, reports = strategy(server=ServerSpec(size, least), **changes), []

    def on_round(report: RoundReport) -> None:
        reports.append(report)
        grid.round = report.round + 1

    found.start(grid, start(), rounds, on_round=on_round)
    return found, reports


def silent(_: Message) -> list[Message]:
    return []


def error(reply: Message) -> list[Message]:
    reply.__dict__.update(_content=None, _error=Error(ErrorCode.NODE_UNAVAILABLE, "the node has died"))
    return [reply]


def twice(reply: Message) -> list[Message]:
    return [reply, copy.deepcopy(reply)]


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    def fault(reply: Message) -> list[Message]:
        (packed,) = arrays(reply.content["factors"]).values()
        reply.content["factors"] = to_record({"factors": change(packed)})
        return [reply]

    return fault


def liar(reply: Message) -> list[Message]:
    reply.content["metrics"]["examples"] = [1000 * n for n in reply.content["metrics"]["examples"]]
    return [reply]


FAULTS: dict[str, tuple[Fault, str]] = {
    "hangs": (silent, "no reply in time"),
    "dies": (error, "raised the node has died"),
    "shapes": (changed(lambda p: p[:, 1:]), "field factors is torch.float64 (2, 25), expected torch.float64 (2, 26)"),
    "dtype": (changed(lambda p: p.float()), "field factors is torch.float32"),
    "NaN": (changed(lambda p: p * float("nan")), "is not finite"),
    "huge": (changed(lambda p: p.fill_(1e300)), "a product of such is not finite"),
    "counts": (liar, "but the host had announced"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_node_that_fails_costs_its_own_clients_of_that_round(name: str, caplog: pytest.LogCaptureFixture) -> None:
    fault, reason = FAULTS[name]
    found, reports = run(Scripted({(2, 3): fault}))
    without, _ = run(Scripted({(2, 3): silent}))
    equal(found.effective_weights(), without.effective_weights())
    assert [bool(report.refused) for report in reports] == [False, True, False]
    refused = [client_ for refusal in reports[1].refused for client_ in refusal.clients]
    assert refused == [2, 5] and all(reason in refusal.reason for refusal in reports[1].refused)
    assert any(m.startswith("round 2: node 3: client") and reason in m for m in caplog.messages)


@pytest.mark.parametrize("name", FAULTS)
def test_it_stops_a_run_that_needs_everybody(name: str) -> None:
    fault, reason = FAULTS[name]
    grid = Scripted({(3, 2): fault})
    with pytest.raises(CohortFailure, match="round 3: 4 of 6 clients answered well") as failure:
        run(grid, least=1.0)
    assert reason in str(failure.value)
    assert grid.round == 3  # rounds 1 and 2 are done


def test_a_node_that_answers_twice_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    usual, _ = run(Scripted())
    found, reports = run(Scripted({(2, 1): twice}))
    equal(found.effective_weights(), usual.effective_weights())
    assert not any(report.refused for report in reports)
    assert "round 2: node 1 answered twice" in caplog.messages


@pytest.mark.parametrize("first", ["old", "new"])
def test_an_answer_that_comes_a_round_late(first: str) -> None:
    """It is no answer to the new round, and does not keep the true one out."""
    held: list[Message] = []

    def hold(reply: Message) -> list[Message]:
        held.append(reply)
        return []

    found, reports = run(Scripted({(1, 2): hold, (2, 2): lambda new: [*held, new] if first == "old" else [new, *held]}))
    without, _ = run(Scripted({(1, 2): silent}))
    equal(found.effective_weights(), without.effective_weights())
    assert [[refusal.clients for refusal in report.refused] for report in reports] == [[[1, 4]], [], []]


def test_a_node_that_goes_and_comes_back() -> None:
    """The cohort is drawn among those who are there, from the stream of the round: who comes back is drawn again."""
    grid = Scripted(away={2: {1}, 3: {1, 3}})
    found, reports = run(grid, 4, least=1 / 3, size=2)
    there = [range(6), [1, 2, 4, 5], [1, 4], range(6)]
    assert [r.cohort for r in reports] == [draw_cohort(list(c), 2, 1, t) for t, c in enumerate(there, start=1)]
    assert grid.asked == [1, 2, 3, 1, 3]
    again, _ = run(Scripted(away={2: {1}, 3: {1, 3}}), 4, least=1 / 3, size=2)
    equal(again.effective_weights(), found.effective_weights())


def test_fewer_clients_than_a_cohort() -> None:
    """A round of those who are there, if they are enough; the share is of a whole cohort."""
    _, reports = run(Scripted(away={2: {1}}), least=0.6)
    assert [len(report.cohort) for report in reports] == [6, 4, 6]
    with pytest.raises(CohortFailure, match=r"round 2: 2 of 6 clients answered well.*2 clients were away"):
        run(Scripted({(2, 3): silent}, away={2: {1}}), least=0.6)


def test_a_node_that_joins_late() -> None:
    grid = Scripted(away={1: {3}, 2: {3}})
    _, reports = run(grid, 3, size=4)
    assert [set(r.cohort) & {2, 5} for r in reports[:2]] == [set(), set()]
    assert reports[2].cohort == draw_cohort(range(6), 4, 1, 3)
    assert grid.asked == [1, 2, 3]


def test_a_node_that_failed_is_asked_anew_whom_it_serves() -> None:
    """It may have been started again, with other data, or without what it had kept."""
    grid = Scripted({(1, 2): silent, (2, 3): changed(lambda p: p * float("nan"))})
    run(grid, 4)
    assert grid.asked == [1, 2, 3, 2, 3]


def test_who_failed_to_train_is_not_asked_to_evaluate() -> None:
    """So that a node that hangs costs its time once a round."""

    tested: list[int] = []

    class Counting(Scripted):
        def _deliver(self, message: Message) -> str:
            if message.metadata.message_type == MessageType.EVALUATE:
                tested.append(message.metadata.dst_node_id)
            return super()._deliver(message)

    grid = Counting({(1, 2): silent})
    run(grid, 1, evaluate_on_clients=True)
    assert tested == [1, 3]
