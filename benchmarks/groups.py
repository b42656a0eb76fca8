"""Workloads that are compared with one another: their sides take turns, so that all meet the same machine."""

import math
import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.driver import PEERS, Worker
from benchmarks.series import Series
from benchmarks.workloads import WORKLOADS

GROUPS = {
    "W1": ("W1 ours", "W1 loop", "W1 pfl", "W1 jax", "W1 floor", "W1 flower", "W1 flower-peer"),
    "W2": ("W2 ours", "W2 loop", "W2 jax", "W1 ours"),
    "W3": ("W3 ours", "W3-1000 ours"),
    "W4": ("W4 ours", "W4 loop", "W4 jax", "W4 flower", "W4 flower-peer"),
    "W5": ("W5 ours", "W5 loop"),
    "W5-32": ("W5-32 ours", "W5-32 loop"),
}
THREADS = sorted({1, 2, os.cpu_count() or 1})
TRIAL_SECONDS, TURN_SECONDS, MOST_ROUNDS = 0.5, 1.5, 50  # of one side, for each number of threads, in a repetition
FLOWER_ROUNDS = {"W1 flower": 12, "W1 flower-peer": 5, "W4 flower": 8, "W4 flower-peer": 2}
FLOWER_REPETITIONS = {"W1": 3, "W4": 2}
TOLERANCE = 1e-3
CHECKS = {"W5": "check-texts", "W5-32": "check-encoder"}
_chosen: dict[str, int] = {}
_agreed: dict[tuple[str, str], float] = {}

Say = Callable[[str], None]


def measure(group: str, device: str, repetitions: int, quick: bool, say: Say) -> tuple[list[Series], dict[str, float]]:
    """All sides of a group in turn, and how far each peer's weights are from ours on a small case.

    Raises:
        RuntimeError: a side failed, or does other work than ours.
    """
    names = [name for name in GROUPS[group] if can_run(name, device, quick, say)]
    series = [Series(group, name) for name in names]
    with ExitStack() as stack:
        workers = [opened(one, device, stack) for one in series]
        differences = agreement(workers, say)
        for one, worker in zip(series, workers, strict=True):
            choose_threads(one, worker, say)
        for number in range(repetitions):
            for one, worker in zip(series, workers, strict=True):
                take_turn(one, worker, number, say)
    return series, differences


def can_run(name: str, device: str, quick: bool, say: Say) -> bool:
    """Whether the side can, and should, run here."""
    side = name.split()[1]
    if side in PEERS and not PEERS[side].exists():
        say(f"{name}: left out, {side} could not be installed ({PEERS[side]} is not there)")
        return False
    if side.startswith("flower") and quick:
        return False
    return device == "cpu" or side in ("ours", "loop", "floor")


def opened(series: Series, device: str, stack: ExitStack) -> Worker:
    """Starts a side; after one round it is warm."""
    workload, side = series.name.split()
    worker = Worker(side, workload, device)
    stack.callback(worker.close)
    if not worker.is_flower:
        series.first.append(worker.run(1)["end"] - worker.begin)
    return worker


def agreement(workers: list[Worker], say: Say) -> dict[str, float]:
    """By side, how far two rounds' change of the weights is from ours, in relation to its size; found once for each."""
    case = CHECKS.get(workers[0].workload, "check-mlp")
    sides = {w.side: w for w in workers if w.side not in ("floor", "flower") and (case, w.side) not in _agreed}
    if set(sides) - {"ours"}:
        weights = {side: _weights(worker, case) for side, worker in sides.items()}
        initial, ours = WORKLOADS[case].build().state_dict(), weights.pop("ours")
        for side, other in weights.items():
            _agreed[case, side] = difference = _difference(other, ours, initial)
            say(f"{case}: {side} differs from ours by {difference:.0e}")
            if not difference < TOLERANCE:
                raise RuntimeError(f"{side} does not do the same work as ours: {difference:.1e} on {case}")
    return {w.side: _agreed[case, w.side] for w in workers if (case, w.side) in _agreed}


def _weights(worker: Worker, case: str) -> dict[str, Tensor]:
    with TemporaryDirectory() as folder:
        worker.ask(check=case, path=f"{folder}/weights.pt")
        found: dict[str, Tensor] = torch.load(f"{folder}/weights.pt")
    return found


def _difference(one: dict[str, Tensor], other: dict[str, Tensor], initial: dict[str, Tensor]) -> float:
    """Of the changes of the adapted weights, which are those that a peer names."""
    first, second = (torch.cat([(w[name] - initial[name]).flatten() for name in one]) for w in (one, other))
    return float((first - second).norm() / second.norm())


def choose_threads(series: Series, worker: Worker, say: Say) -> None:
    """The number of threads with which a short trial is fastest; with Flower, W4 takes what was found for W1."""
    if worker.device != "cpu":
        return
    name = f"W1 {worker.side}" if worker.is_flower else series.name
    if name not in _chosen:
        for threads in (*THREADS, *THREADS):  # twice: the first rounds of a process read data that it has not seen
            series.trial[threads] = min(trial(worker, threads), series.trial.get(threads, math.inf))
        _chosen[name] = min(series.trial, key=series.trial.__getitem__)
        tried = ", ".join(f"{_ms(seconds)} with {threads}" for threads, seconds in series.trial.items())
        say(f"{series.name}: trial of threads: {tried}")
    worker.threads = series.threads = _chosen[name]


def trial(worker: Worker, threads: int) -> float:
    """Median seconds of a few rounds after the first one."""
    if worker.is_flower:
        return statistics.median(worker.run(3, threads)["seconds"][1:])
    first = worker.run(2, threads)["seconds"][1:]
    return statistics.median(worker.run(rounds_in(TRIAL_SECONDS, first), threads)["seconds"])


def take_turn(series: Series, worker: Worker, number: int, say: Say) -> None:
    """One repetition."""
    if worker.is_flower:
        if number >= FLOWER_REPETITIONS[worker.workload]:
            return
        done = worker.run(FLOWER_ROUNDS[series.name] + 1)
        series.first.append(done["seconds"][0])
        series.add(done["seconds"][1:], done["examples"][1:])
    else:
        before = [*series.trial.values(), *(series.seconds or [[]])[-1]] or worker.run(1)["seconds"]
        done = worker.run(rounds_in(TURN_SECONDS, before))
        series.add(done["seconds"], done["examples"])
    series.resident, series.private = worker.memory.resident, worker.memory.private
    say(f"{series.name}: {_ms(series.per_repetition()[-1])} a round, repetition {number + 1}")


def rounds_in(turn: float, seconds: list[float]) -> int:
    """How many rounds such a time is good for, by earlier ones."""
    return min(max(int(turn / min(seconds)), 1), MOST_ROUNDS)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
