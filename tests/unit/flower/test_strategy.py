"""One round, as the server sees it: who is asked, who answers, and what becomes of the weights."""

import copy
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import runs
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from runs import TamperedGrid, arrays, clients_of, equal, grid, node_of, start, strategy

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import ServerSpec, Weighting
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.messages import decode_plan, to_record, unpack
from fedrac.protocol.round_replies import enforce
from fedrac.protocol.round_report import CohortFailure, RoundReport
from fedrac.training.optimizer import LocalSpec

HOSTS = 3  # of six clients; a cohort of all asks two of each


def spec(min_fraction: float = 0.5, weighting: Weighting = "uniform", eta: float = 1.0) -> ServerSpec:
    return ServerSpec(runs.CLIENTS, min_fraction, weighting, eta)


def run(tamper: runs.Tamper, found: FedRacLora, rounds: int = 1) -> list[RoundReport]:
    reports: list[RoundReport] = []
    found.start(TamperedGrid(tamper, HOSTS), start(found.workload), rounds, on_round=reports.append)
    return reports


def without(node: int) -> runs.Tamper:
    return lambda replies: [reply for reply in replies if node_of(reply) != node]


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
@pytest.mark.parametrize("lost", [None, 2])
def test_weights_are_the_mean_over_those_who_answered(weighting: Weighting, lost: int | None) -> None:
    """``W + eta' s B mean(A)`` by hand, from the very factors that came."""
    came: list[Message] = []

    def tamper(replies: list[Message]) -> list[Message]:
        came.extend(reply for reply in replies if node_of(reply) != lost)
        return came

    found = strategy(server=spec(weighting=weighting, eta=0.7))
    (report,) = run(tamper, found)
    packed = torch.cat([arrays(reply.content["factors"])["factors"] for reply in came])
    stacked = {key: value.numpy() for key, value in unpack(packed, found.shapes_at(1)).items()}
    counts = np.concatenate([r.content["metrics"]["examples"] for r in came])
    share = counts / counts.sum() if weighting == "examples" else np.full(len(counts), 1 / len(counts))
    before, after = arrays(start()), found.effective_weights()
    sketches = draw_sketches(found.blocks, found.method, found.sketch, 1).values
    for block in found.blocks:
        mean = np.tensordot(share, stacked[block.key("A" if block.rank else "D")], 1)
        step = block.scale * (sketches[block.name].numpy() @ mean) if block.rank else mean
        torch.testing.assert_close(after[block.name], before[block.name] + 0.7 * torch.from_numpy(step))
    assert len(counts) == (runs.CLIENTS if lost is None else 4)
    losses = np.concatenate([r.content["metrics"]["losses"] for r in came])
    assert report.train_loss == pytest.approx(losses.mean(), rel=1e-12)


@pytest.mark.parametrize(("lost", "min_fraction", "goes_on"), [(1, 2 / 3, True), (1, 0.7, False), (2, 1 / 3, True)])
def test_the_least_share_of_a_cohort(lost: int, min_fraction: float, goes_on: bool) -> None:
    found = strategy(server=spec(min_fraction))

    def tamper(replies: list[Message]) -> list[Message]:
        return replies[lost:]

    if goes_on:
        (report,) = run(tamper, found)
        assert [r.clients for r in report.refused] == [[0, 3], [1, 4]][:lost]
        assert {r.reason for r in report.refused} == {"no reply in time"}
        return
    with pytest.raises(
        CohortFailure, match=rf"round 1: 4 of 6 clients .* cohort.min_fraction={min_fraction}.*0, 3: no"
    ):
        run(tamper, found)
    assert found.state is not None and found.state.round == 0
    equal(found.effective_weights(), arrays(start()))


@pytest.mark.parametrize("asked", [20, 40, 50])
def test_a_share_that_is_just_reached(asked: int) -> None:
    """``min_fraction`` as a person writes it: 11 of 20 are a share of 0.55, although 0.55 * 20 > 11."""
    for good in range(1, asked + 1):
        report, server = RoundReport(1, range(asked), 1.0), ServerSpec(asked, float(f"{good / asked:.3f}"))
        enforce(report, good, server)
        with pytest.raises(CohortFailure):
            enforce(report, good - 1, server)


def test_a_failure_in_a_later_round_leaves_the_round_before() -> None:
    whole = strategy(server=spec(1.0))
    runs.train(whole, HOSTS, rounds=2)
    found, rounds = strategy(server=spec(1.0)), iter(range(3))
    reports: list[RoundReport] = []
    with pytest.raises(CohortFailure, match="round 3: 4 of 6"):
        found.start(
            TamperedGrid(lambda replies: replies if next(rounds) < 2 else replies[1:], HOSTS),
            start(),
            4,
            on_round=reports.append,
        )
    assert found.state is not None and found.state.round == 2 and [r.round for r in reports] == [1, 2]
    equal(found.effective_weights(), whole.effective_weights())


@pytest.mark.parametrize("name", runs.methods())
def test_the_order_of_replies_does_not_matter(name: str) -> None:
    """Bit for bit."""

    def shuffled(seed: int) -> FedRacLora:
        found, generator = strategy(method=runs.methods()[name], server=spec(weighting="examples")), random.Random(seed)
        run(lambda replies: generator.sample(replies, len(replies)), found, rounds=2)
        return found

    first = shuffled(0).effective_weights()
    equal(shuffled(1).effective_weights(), first)


def test_the_second_answer_of_a_node_does_not_count() -> None:
    def doubled(replies: list[Message]) -> Iterable[Message]:
        again = copy.deepcopy(replies[0])
        again.content["metrics"]["losses"] = [1e6] * len(clients_of(again))
        return [*replies, again]

    usual, found = strategy(server=spec()), strategy(server=spec())
    (expected,), (report,) = run(lambda replies: replies, usual), run(doubled, found)
    equal(found.effective_weights(), usual.effective_weights())
    assert (report.train_loss, report.upload_bytes) == (expected.train_loss, expected.upload_bytes)


def test_an_answer_of_a_node_that_was_not_asked_does_not_count() -> None:
    found = strategy(server=ServerSpec(1, 1.0))
    sent = list(found.configure_train(1, start(), ConfigRecord(), grid(HOSTS)))
    assert len(sent) == 1
    (true,) = grid(HOSTS).send_and_receive(sent)
    stranger = copy.deepcopy(true)
    stranger.metadata.__dict__["_src_node_id"] = 77
    with pytest.raises(CohortFailure, match="0 of 1"):
        found.aggregate_train(1, [stranger])
    _, metrics = found.aggregate_train(1, [stranger, true])
    assert metrics is not None and metrics["clients"] == 1


def test_an_answer_of_an_older_round_is_refused() -> None:
    old: list[Message] = []

    def late(replies: list[Message]) -> list[Message]:
        old.append(copy.deepcopy(replies[0]))
        return [old[0], *replies[1:]]

    first, second = run(late, strategy(server=spec()), rounds=2)
    assert not first.refused
    assert [str(r) for r in second.refused] == ["clients 0, 3: no reply in time, but one of round 1"]


def test_an_answer_of_an_older_round_does_not_stand_in_the_way_of_the_new_one() -> None:
    old: list[Message] = []

    def both(replies: list[Message]) -> list[Message]:
        old.append(copy.deepcopy(replies[0]))
        return [old[0], *replies] if len(old) == 2 else replies

    usual, found = strategy(server=spec()), strategy(server=spec())
    runs.train(usual, HOSTS, rounds=2)
    assert not any(report.refused for report in run(both, found, rounds=2))
    equal(found.effective_weights(), usual.effective_weights())


@pytest.mark.parametrize("error", ["error reply", "error record"])
def test_a_host_that_fails(error: str) -> None:
    def failing(replies: list[Message]) -> list[Message]:
        reply = replies[1]
        if error == "error reply":
            reply.__dict__.update(_content=None, _error=Error(1, "no memory"))
        else:
            reply.content = RecordDict({"error": ConfigRecord({"reason": "no memory"})})
        return replies

    (report,) = run(failing, strategy(server=spec()))
    assert [str(r) for r in report.refused] == ["clients 1, 4: raised no memory"]


def test_one_bad_client_costs_only_itself() -> None:
    def spoil(replies: list[Message]) -> list[Message]:
        replies[2].content["metrics"]["losses"] = [float("nan"), *replies[2].content["metrics"]["losses"][1:]]
        return replies

    found = strategy(server=spec())
    (report,) = run(spoil, found)
    assert [str(r) for r in report.refused] == ["client 2: field losses is not finite"]


def test_an_update_that_overflows_changes_nothing() -> None:
    def huge(replies: list[Message]) -> list[Message]:
        (packed,) = arrays(replies[0].content["factors"]).values()
        replies[0].content["factors"] = to_record({"factors": torch.full_like(packed, 1e150)})
        return replies

    found = strategy(adapt=AdaptSpec({"*": 2}, (), 1e160), server=spec())
    with pytest.raises(CohortFailure, match="round 1: the update is too large to be finite"):
        run(huge, found)
    equal(found.effective_weights(), arrays(start()))


def test_a_cohort_larger_than_the_population() -> None:
    found = strategy(server=ServerSpec(7))
    with pytest.raises(ValueError, match=r"cohort.size=7 is larger than the population of 6 clients: set"):
        runs.train(found)


def test_hosts_that_come_between_rounds_count_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A population that grows: first the even clients alone, from round 3 on all of them."""
    whole, found = grid(2), strategy(server=ServerSpec(3))
    present = {1: [1], 2: [1], 3: [1, 2], 4: [2]}
    monkeypatch.setattr(whole, "get_node_ids", lambda: present[0 if found.state is None else found.state.round + 1])
    present[0] = [1]
    reports: list[RoundReport] = []
    found.start(whole, start(), 4, on_round=reports.append)
    assert [set(r.cohort) <= {0, 2, 4} for r in reports[:2]] == [True, True]
    assert set(reports[3].cohort) == {1, 3, 5}


@pytest.mark.parametrize("shape", ["linear", "cosine", "inverse", "constant"])
def test_schedules_move_the_step_and_the_rate(shape: Any) -> None:
    schedule = ScheduleSpec(shape, warmup=1, final=0.1, decay=0.5)
    found = strategy(local_schedule=schedule, server=ServerSpec(2, eta=0.5, schedule=schedule))
    reports = runs.train(found, rounds=4)
    assert [r.eta for r in reports] == [0.5 * schedule.factor(t, 4) for t in (1, 2, 3, 4)]
    message, *_ = found.configure_train(3, start(), ConfigRecord(), grid())
    assert decode_plan(message.content).spec.local.lr == found.local.lr * schedule.factor(3, 4)


def test_settings_that_contradict_one_another() -> None:
    theory = LocalSpec(precondition=True)
    with pytest.raises(ValueError, match=r"local.precondition=true needs a frozen sketch"):
        strategy(method=runs.methods()["flora"], local=theory)
    with pytest.raises(ValueError, match=r"sketch.send='post' is unknown"):
        strategy(send_sketch="post")
    with pytest.raises(ValueError, match=r"evaluate.every=0"):
        strategy(evaluate_every=0)


def test_arrays_that_are_not_the_models() -> None:
    with pytest.raises(ValueError, match=r"initial_arrays have no 'layers\.0\.weight'"):
        strategy().start(grid(), ArrayRecord(), 1)
