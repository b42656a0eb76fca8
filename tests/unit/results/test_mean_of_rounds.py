"""The mean of the rounds' models (``server.average``): what a run predicts with, keeps, and goes on with."""

from pathlib import Path

import pytest
import runs
from flwr.app import MetricRecord
from runs import equal
from safetensors.torch import load_file
from torch import Tensor

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.round_report import RoundReport
from fedrac.results import checkpoint, round_log
from fedrac.results.checkpoint_schedule import Checkpoints, CheckpointSpec

LAST = 6


def strategy(power: float | None, method: Method | None = None, **changes: object) -> FedRacLora:
    return runs.strategy(method=method, server=ServerSpec(cohort_size=4, average=power), **changes)


def models(
    power: float | None, method: Method | None = None
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """After each round: what it predicts with, and what its last round has led to."""
    found, means, lasts = strategy(power, method), [], []

    def after(_: RoundReport) -> None:
        means.append(found.effective_weights())
        lasts.append(found.last_weights() or found.effective_weights())

    runs.train(found, rounds=LAST, on_round=after)
    return means, lasts


@pytest.mark.parametrize("method", runs.methods().values(), ids=runs.methods())
def test_a_power_of_zero_is_the_plain_mean_and_changes_no_round(method: Method) -> None:
    """Of models with their factors merged; the rounds themselves are those of a run without a mean."""
    (plain, _), (means, lasts) = models(None, method), models(0, method)
    for number in range(LAST):
        equal(lasts[number], plain[number])
        equal(means[number], {k: sum(w[k] for w in plain[: number + 1]) / (number + 1) for k in plain[0]}, 1e-12)


@pytest.mark.parametrize("power", [1, 3])
def test_rounds_count_as_the_power_says(power: int) -> None:
    """For a whole p exactly as ``t (t+1) ... (t+p-1)``."""
    means, lasts = models(power)
    shares = [1.0] * LAST
    for t in range(1, LAST + 1):
        for factor in range(power):
            shares[t - 1] *= t + factor
    expected = {k: sum(s * w[k] for s, w in zip(shares, lasts, strict=True)) / sum(shares) for k in lasts[0]}
    equal(means[-1], expected, 1e-12)


@pytest.mark.parametrize("method", [Method(), Method(train="both", fresh=False, merge=False)], ids=["chain", "carried"])
def test_a_checkpoint_predicts_with_the_mean_and_goes_on_from_the_last_round(tmp_path: Path, method: Method) -> None:
    """Whether it was written whole or as a log; the run that goes on ends as the one that never stopped."""
    whole, first, second = (strategy(2.0, method, adapt=AdaptSpec({"*": 1})) for _ in range(3))
    runs.train(whole, rounds=LAST)
    checkpoints, logged = Checkpoints(tmp_path, CheckpointSpec(best=None), first), []

    def after(report: RoundReport) -> None:
        checkpoints.after(report)
        logged.append((tmp_path / "checkpoint" / round_log.FILE).exists())
        equal(checkpoint.merged(tmp_path)[0], first.effective_weights())
        equal(dict(checkpoint.load(tmp_path).mean), dict(first.state.mean))

    runs.train(first, rounds=4, on_round=after)
    checkpoints.close()
    assert not logged[0]
    assert any(logged)
    equal(load_file(tmp_path / "checkpoint/weights.safetensors"), first.effective_weights())
    second.start(runs.grid(), runs.start(), LAST, state=checkpoint.load(tmp_path))
    equal(second.effective_weights(), whole.effective_weights())
    equal(second.last_weights(), whole.last_weights())


def test_both_are_tested() -> None:
    found, tested = strategy(1.0), []

    def test(number: int, arrays: object) -> MetricRecord:
        tested.append(runs.arrays(arrays))
        return MetricRecord({"test/loss": float(len(tested))})

    reports = runs.train(found, rounds=2, evaluate_fn=test)
    assert [report.metrics for report in reports] == [
        {"test/loss": 1.0, "last/loss": 2.0},
        {"test/loss": 3.0, "last/loss": 4.0},
    ]
    equal(tested[2], found.effective_weights())
    equal(tested[3], found.last_weights())


@pytest.mark.parametrize("power", [-1.0, float("inf"), float("nan")])
def test_a_power_out_of_range(power: float) -> None:
    with pytest.raises(ValueError, match=r"server\.average=.* must be 0 or more"):
        ServerSpec(average=power)
