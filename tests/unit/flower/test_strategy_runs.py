"""Whole runs: the same numbers however they are cut, hosted, and driven."""

from typing import Any

import pytest
import runs
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Strategy
from runs import arrays, equal, grid, methods, start, strategy, workload

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.round_report import RoundReport
from fedrac.results import checkpoint

every_method = pytest.mark.parametrize("name", methods())


def settings(name: str) -> dict[str, Any]:
    """Everything that a round could carry to the next: schedules, full blocks, a server step."""
    schedule = ScheduleSpec("cosine", warmup=1, final=0.2)
    server = ServerSpec(3, weighting="examples", eta=0.8, schedule=schedule)
    return {"method": methods()[name], "server": server, "local_schedule": schedule}


def moved(found: FedRacLora) -> float:
    """How far the run has come: a comparison of runs that went nowhere says nothing."""
    before = arrays(start(found.workload))
    return max(float((value - before[name]).abs().max()) for name, value in found.effective_weights().items())


def facts(report: RoundReport) -> tuple[Any, ...]:
    return report.round, list(report.cohort), report.eta, report.upload_bytes, report.download_bytes


@every_method
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Any) -> None:
    """Bit for bit, through a checkpoint, and in float32: nothing is lost between rounds."""
    work = workload(dtype="float32")
    whole, first, second = (strategy(work, **settings(name)) for _ in range(3))
    reports = runs.train(whole, 2, rounds=4)
    with pytest.raises(KeyboardInterrupt):
        runs.train(first, 2, rounds=4, on_round=lambda report: stop_at(report, 2))
    assert first.state is not None
    checkpoint.save(tmp_path, first.state, first.effective_weights())
    rest = runs.train(second, 2, rounds=4, state=checkpoint.load(tmp_path))
    equal(second.effective_weights(), whole.effective_weights())
    assert moved(whole) > 0.01
    # What clients hold is not part of a checkpoint: they are sent more once.
    assert [facts(r)[:-1] for r in rest] == [facts(r)[:-1] for r in reports[2:]]
    assert [r.train_loss for r in rest] == [r.train_loss for r in reports[2:]]


def stop_at(report: RoundReport, round_: int) -> None:
    if report.round == round_:
        raise KeyboardInterrupt


@every_method
def test_messages_change_nothing(name: str) -> None:
    """A run over the grid is, bit for bit, that of the library's parts joined by hand."""
    federation = runs.by_hand(workload(), methods()[name], cohort=4, eta=0.8, weighting="examples")
    found = strategy(method=methods()[name], server=ServerSpec(4, weighting="examples", eta=0.8))
    runs.train(found, rounds=3)
    for _ in range(3):
        federation.round()
    equal(found.effective_weights(), federation.weights())
    assert moved(found) > 0.01


@every_method
def test_flowers_own_loop_gives_the_same_weights(name: str) -> None:
    own, plain = (strategy(method=methods()[name], evaluate_on_clients=True) for _ in range(2))
    result = own.start(grid(2), start(), 3)
    other = Strategy.start(plain, grid(2), start(), 3)
    equal(arrays(other.arrays), arrays(result.arrays))
    equal(arrays(result.arrays), own.effective_weights())
    assert moved(own) > 0.01
    assert dict(other.train_metrics_clientapp) == dict(result.train_metrics_clientapp)
    assert dict(other.evaluate_metrics_clientapp) == dict(result.evaluate_metrics_clientapp)
    assert set(result.evaluate_metrics_clientapp) == {1, 2, 3}


def test_flowers_own_loop_does_not_tell_the_number_of_rounds() -> None:
    """So that what depends on it is refused, not guessed; unless the strategy is told."""
    schedule = ScheduleSpec("linear")
    found = strategy(local_schedule=schedule)
    with pytest.raises(ValueError, match=r"schedule.shape=linear needs the number of rounds"):
        Strategy.start(found, grid(), start(), 3)
    found, own = (strategy(local_schedule=schedule) for _ in range(2))
    found.rounds = 3
    other = Strategy.start(found, grid(), start(), 3)
    equal(arrays(other.arrays), arrays(own.start(grid(), start(), 3).arrays))


def test_a_strategy_can_be_started_again() -> None:
    found = strategy()
    runs.train(found)
    once = found.effective_weights()
    runs.train(found)
    equal(found.effective_weights(), once)


@pytest.mark.parametrize(("name", "hosts"), [*((name, 5) for name in methods()), ("flora", 2), ("fed_rac_lora", 7)])
def test_hosts_do_not_change_the_run(name: str, hosts: int) -> None:
    """Same cohorts; weights to the rounding of float64. Of seven hosts, one serves nobody."""
    one, many = (strategy(**settings(name)) for _ in range(2))
    expected, found = runs.train(one, 1), runs.train(many, hosts)
    assert list(map(facts, found)) == list(map(facts, expected))
    for report, other in zip(found, expected, strict=True):
        assert report.train_loss == pytest.approx(other.train_loss, rel=1e-12)
    equal(many.effective_weights(), one.effective_weights(), 1e-12)
    assert moved(one) > 0.01


def test_each_seed_is_a_run_of_its_own() -> None:
    cohorts = []
    for seed in (1, 2):
        found = strategy(workload(seed=seed), server=ServerSpec(3))
        cohorts.append([report.cohort for report in runs.train(found, rounds=6)])
    assert cohorts[0] != cohorts[1]
    assert len({tuple(c) for c in cohorts[0]}) > 1
    assert all(list(c) == sorted(set(c)) and len(c) == 3 for c in cohorts[0])


def test_when_the_server_evaluates() -> None:
    asked: list[int] = []

    def evaluate(round_: int, record: ArrayRecord) -> MetricRecord:
        asked.append(round_)
        equal(arrays(record), found.effective_weights())
        return MetricRecord({"test/x": float(round_)})

    found = strategy(method=methods()["fedex_lora"], evaluate_every=3, evaluate_on_clients=True)
    reports = runs.train(found, rounds=7, evaluate_fn=evaluate)
    assert asked == [3, 6, 7]
    assert [r.metrics.get("test/x") for r in reports] == [None, None, 3.0, None, None, 6.0, 7.0]
    assert ["clients/mse" in r.metrics for r in reports] == [False, False, True, False, False, True, True]


def test_clients_are_not_asked_to_evaluate_unless_told() -> None:
    reports = runs.train(strategy(), rounds=1)
    assert reports[0].metrics == {}


def test_the_result_is_flowers() -> None:
    result = strategy().start(grid(), start(), 2, evaluate_fn=lambda t, _: MetricRecord({"m": float(t)}))
    assert set(result.train_metrics_clientapp) == {1, 2}
    assert result.train_metrics_clientapp[2]["clients"] == 4
    assert [result.evaluate_metrics_serverapp[t]["m"] for t in (1, 2)] == [1.0, 2.0]


def test_no_rounds_left() -> None:
    """A finished run that is started again ends at once, with its weights."""
    found = strategy()
    runs.train(found, rounds=2)
    again, reports = strategy(), []
    result = again.start(grid(), start(), 2, state=found.state, on_round=reports.append)
    assert not reports
    equal(arrays(result.arrays), found.effective_weights())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_stay_in_the_master_dtype(dtype: str) -> None:
    found = strategy(workload(dtype=dtype), adapt=AdaptSpec({"*": 1}))
    found.start(grid(), start(workload(dtype="float32")), 2)
    weights = found.effective_weights()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in weights.values()) and moved_from(weights) > 0.01


def moved_from(weights: dict[str, torch.Tensor]) -> float:
    before = arrays(start(workload(dtype="float32")))
    return max(float((value - before[name]).abs().max()) for name, value in weights.items())
