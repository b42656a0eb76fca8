"""Checkpoints as a log: what is read back is the run's state, bit for bit, wherever the log was cut."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import runs
from runs import equal
from safetensors.torch import load_file

from fedrac.aggregation.guard import GuardSpec
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.state import ServerState
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.round_report import RoundReport
from fedrac.results import checkpoint, round_log
from fedrac.results.checkpoint_schedule import Checkpoints, CheckpointSpec

WIDE = {"_target_": "fedrac.models.mlp", "inputs": 4, "hidden": [24], "outputs": 3}
NOISE = GuardSpec(clip=1.0, noise=1.0)


class Logged:
    """A run whose every round is checkpointed; what it had after each of them."""

    def __init__(self, folder: Path, rounds: int, spec: CheckpointSpec | None = None, **changes: Any) -> None:
        changes = {"adapt": AdaptSpec({"*": 1}), **changes}
        self.strategy: FedRacLora = runs.strategy(runs.workload(model=WIDE), **changes)
        self.checkpoints = Checkpoints(folder, spec or CheckpointSpec(best=None), self.strategy)
        self.states: list[ServerState] = []
        self.folder = folder
        runs.train(self.strategy, rounds=rounds, on_round=self.after)

    def after(self, report: RoundReport) -> None:
        self.checkpoints.after(report)
        assert self.strategy.state is not None
        self.states.append(self.strategy.state)
        self.look()

    def look(self) -> None:
        """A hook for tests that read while the run goes on."""

    @property
    def log(self) -> Path:
        return self.folder / "checkpoint" / round_log.FILE


def same(actual: ServerState, expected: ServerState) -> None:
    assert (actual.round, actual.guard) == (expected.round, expected.guard)
    equal(dict(actual.weights), dict(expected.weights))
    equal(dict(actual.factors), dict(expected.factors))
    equal(dict(actual.moments), dict(expected.moments))


@pytest.mark.parametrize("method", runs.methods().values(), ids=runs.methods())
def test_every_round_can_be_read_while_the_run_goes_on(tmp_path: Path, method: Method) -> None:
    """State and merged model, of every method."""
    logged = []

    class Watched(Logged):
        def look(self) -> None:
            logged.append(self.log.exists())
            same(checkpoint.load(tmp_path), self.states[-1])
            equal(checkpoint.merged(tmp_path)[0], self.strategy.effective_weights())

    Watched(tmp_path, 6, method=method)
    assert not logged[0]
    assert any(logged)


@pytest.mark.parametrize("guard", [GuardSpec(), NOISE], ids=["plain", "noise"])
def test_a_last_round_that_was_cut_off_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, guard: GuardSpec
) -> None:
    """Wherever it ends; clients have not seen it."""
    run = Logged(tmp_path, 3, guard=guard)
    whole = run.log.read_bytes()
    run.checkpoints.after(runs.train(run.strategy, rounds=4, state=run.strategy.state)[-1])
    longer = run.log.read_bytes()
    same(checkpoint.load(tmp_path), run.strategy.state)  # type: ignore[arg-type]
    assert longer.startswith(whole) and "left out" not in caplog.text
    for end in range(len(whole) + 1, len(longer), 13):
        run.log.write_bytes(longer[:end])
        same(checkpoint.load(tmp_path), run.states[-1])
        assert "was not written to its end, and is left out" in caplog.messages[-1]


@pytest.mark.parametrize("guard", [GuardSpec(), NOISE], ids=["plain", "noise"])
def test_a_damaged_round_ends_the_log(tmp_path: Path, guard: GuardSpec) -> None:
    """With noise the run does not go on: clients have seen what came after."""
    run = Logged(tmp_path, 3, guard=guard)
    data = bytearray(run.log.read_bytes())
    data[-1] ^= 1
    run.log.write_bytes(data)
    if guard.noise:
        with pytest.raises(ValueError, match=f"{tmp_path}/checkpoint is damaged. With guard.noise no round is done"):
            checkpoint.load(tmp_path)
    else:
        same(checkpoint.load(tmp_path), run.states[1])
    assert checkpoint.merged(tmp_path)[1] == 2
    assert (run.log.stat().st_mode & 0o077 == 0) == bool(guard.noise)  # it has the seed of the noise


def test_what_a_round_costs(tmp_path: Path) -> None:
    """A whole state is written only where the rounds since would be as long."""
    sizes: list[tuple[int, int]] = []

    class Watched(Logged):
        def look(self) -> None:
            sizes.append((checkpoint.whole_round(tmp_path), self.log.stat().st_size if self.log.exists() else 0))

    run = Watched(tmp_path, 12)
    numbers = run.strategy.uploads()[0]
    state = sum(tensor.numel() for tensor in run.states[0].weights.values())
    period = -(-state // numbers)  # the rounds that are shorter than a state, and the one that is written whole
    assert period > 2
    assert [whole for whole, _ in sizes] == [1 + (n // period) * period for n in range(12)]
    most = 8 * numbers + 500  # and what names it
    assert all(b[1] - a[1] < most for a, b in pairwise(sizes) if b[1] > a[1] > 0)


def test_seldom_checkpoints_are_one_append(tmp_path: Path) -> None:
    found = []

    class Watched(Logged):
        def look(self) -> None:
            found.append(checkpoint.load(tmp_path).round if (tmp_path / "checkpoint").exists() else 0)

    run = Watched(tmp_path, 5, CheckpointSpec(every=2, best=None))
    assert found == [0, 2, 2, 4, 4]
    run.checkpoints.close()
    same(checkpoint.load(tmp_path), run.states[-1])
    assert not run.log.exists() and checkpoint.whole_round(tmp_path) == 5


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_stop_between_a_round_and_its_record(tmp_path: Path, every: int) -> None:
    """While the round is tested: the one before it is written whole, whatever was on the disk."""
    run = Logged(tmp_path, 5, CheckpointSpec(every=every, best=None))
    with pytest.raises(KeyboardInterrupt):
        runs.train(run.strategy, rounds=6, state=run.strategy.state, on_round=_interrupt)
    assert run.strategy.finished_rounds == 6
    run.checkpoints.close()
    same(checkpoint.load(tmp_path), run.states[-1])
    assert not run.log.exists() and checkpoint.whole_round(tmp_path) == 5


def _interrupt(_: RoundReport) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("closed", [True, False], ids=["ended", "killed"])
def test_the_best_one_is_a_place_in_the_log(tmp_path: Path, closed: bool) -> None:
    """Its files are those of the checkpoint; at the end it is whole, and a plain state dict."""
    run = Logged(tmp_path, 2)
    checkpoint.mark_best(tmp_path, 2)
    runs.train(run.strategy, rounds=3, state=run.strategy.state, on_round=run.after)
    if closed:
        run.checkpoints.close()
        equal(load_file(tmp_path / "best" / "weights.safetensors"), dict(run.states[1].weights))
        assert not (tmp_path / "best" / round_log.FILE).exists()
    shutil.rmtree(tmp_path / "checkpoint")
    shutil.rmtree(tmp_path / "checkpoint.1", ignore_errors=True)
    same(checkpoint.load(tmp_path), run.states[1])


def test_a_best_one_that_the_machine_stopped_in_is_put_in_its_place(tmp_path: Path) -> None:
    run = Logged(tmp_path, 3)
    checkpoint.mark_best(tmp_path)
    (tmp_path / "best").rename(tmp_path / "best.new")
    (tmp_path / "checkpoint.new").mkdir()
    Checkpoints(tmp_path, CheckpointSpec(best=None), run.strategy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "checkpoint"]


def _full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_after_a_full_disk_the_next_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put behind the end that was cut off."""
    run = Logged(tmp_path, 2)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"does not take a checkpoint: .*No space left"):
        patch.setattr(round_log.os, "fsync", _full)
        runs.train(run.strategy, rounds=3, state=run.strategy.state, on_round=run.after)
    run.checkpoints.close()
    assert checkpoint.whole_round(tmp_path) == 3 and not run.log.exists()


def test_other_bits_are_recognised(tmp_path: Path) -> None:
    """As where another math library makes other sketches of the same seed."""
    run = Logged(tmp_path, 1)
    other = replace(run.strategy.replay, sketch=replace(run.strategy.sketch, seed=2))
    runs.train(run.strategy, rounds=2, state=run.strategy.state)
    assert run.strategy.last_round is not None
    checkpoint.append(tmp_path, other, [run.strategy.last_round])
    with pytest.raises(ValueError, match="give other weights here than where they were made"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("change", [lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"x" * 7)])
def test_a_log_without_its_beginning_is_none(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    run = Logged(tmp_path, 2)
    change(run.log)
    same(checkpoint.load(tmp_path), run.states[0])
