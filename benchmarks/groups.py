"""Workloads that are compared with one another: their sides take turns, so that all meet the same machine."""

import os
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.driver import PFL_PYTHON, Worker
from benchmarks.workloads import WORKLOADS

GROUPS = {
    "W1": ("W1 ours", "W1 loop", "W1 pfl", "W1 floor", "W1 flower", "W1 flower-peer"),
    "W2": ("W2 ours", "W2 loop", "W1 ours"),
    "W3": ("W3 ours", "W3-1000 ours"),
    "W4": ("W4 ours", "W4 loop", "W4 flower", "W4 flower-peer"),
    "W5": ("W5 ours", "W5 loop"),
}
THREADS = sorted({1, 2, os.cpu_count() or 1})
TURN_SECONDS, MOST_ROUNDS = 1.5, 50  # of one side in one repetition
FLOWER_ROUNDS = {"W1 flower": 12, "W1 flower-peer": 5, "W4 flower": 8, "W4 flower-peer": 2}
FLOWER_REPETITIONS = 3
TOLERANCE = 1e-3

Say = Callable[[str], None]


@dataclass
class Series:
    """What was measured of one side.

    Attributes:
        threads: of torch (with Flower: of each client process), the fastest of those in ``trial`` (seconds a round).
        first: seconds from the start of the processes to the end of the first round.
        seconds, examples: of every steady round, a list for each repetition.
        resident, private: the largest memory in bytes, all of it and without mapped files.
    """

    group: str
    name: str
    threads: int = 1
    trial: dict[int, float] = field(default_factory=dict)
    first: list[float] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    examples: list[list[int]] = field(default_factory=list)
    resident: int = 0
    private: int = 0

    def per_repetition(self, per_example: bool = False) -> list[float]:
        """Median seconds of a round, or the seconds for one example, in each repetition."""
        if per_example:
            return [sum(s) / sum(n) for s, n in zip(self.seconds, self.examples, strict=True)]
        return [statistics.median(rounds) for rounds in self.seconds]


def measure(group: str, device: str, repetitions: int, quick: bool, say: Say) -> tuple[list[Series], dict[str, float]]:
    """All sides of a group in turn, and how far each peer's weights are from ours on a small case.

    Raises:
        RuntimeError: a side failed, or does other work than ours.
    """
    with opened(GROUPS[group], device, quick, say) as workers:
        series = [Series(group, f"{w.workload} {w.side}") for w in workers]
        for one, worker in zip(series, workers, strict=True):
            if not worker.is_flower:
                one.first.append(worker.run(1)["end"] - worker.begin)
        differences = agreement(workers, quick, say)
        for one, worker in zip(series, workers, strict=True):
            choose_threads(one, worker, quick, say)
        for number in range(repetitions):
            for one, worker in zip(series, workers, strict=True):
                take_turn(one, worker, number, say)
    return series, differences


@contextmanager
def opened(names: Iterable[str], device: str, quick: bool, say: Say) -> Iterator[list[Worker]]:
    """Starts a worker for every side that can run here."""
    with ExitStack() as stack:
        workers = []
        for name in names:
            workload, side = name.split(" ")
            if device != "cpu" and (side == "pfl" or side.startswith("flower")):
                continue
            if side == "pfl" and not PFL_PYTHON.exists():
                say(f"{name}: left out, {PFL_PYTHON} is not there (pfl could not be installed)")
                continue
            workers.append(Worker(side, workload, device))
            stack.callback(workers[-1].close)
        yield workers


def agreement(workers: list[Worker], quick: bool, say: Say) -> dict[str, float]:
    """By side, how far two rounds' change of the weights is from ours, in relation to its size."""
    case = "check-encoder" if workers[0].workload == "W5" else "check-mlp"
    sides = {w.side: w for w in workers if w.side not in ("floor", "flower") and not (quick and w.is_flower)}
    with TemporaryDirectory() as folder:
        for side, worker in sides.items():
            worker.ask(check=case, path=f"{folder}/{side}")
        weights = {side: torch.load(f"{folder}/{side}") for side in sides}
    initial, ours = WORKLOADS[case].build().state_dict(), weights.pop("ours")
    found = {side: _difference(other, ours, initial) for side, other in weights.items()}
    for side, difference in found.items():
        say(f"{case}: {side} differs from ours by {difference:.0e}")
        if not difference < TOLERANCE:
            raise RuntimeError(f"{side} does not do the same work as ours: {difference:.1e} on {case}")
    return found


def _difference(one: dict[str, Tensor], other: dict[str, Tensor], initial: dict[str, Tensor]) -> float:
    """Of the changes of the adapted weights, which are those that a peer names."""
    first, second = (torch.cat([(w[name] - initial[name]).flatten() for name in one]) for w in (one, other))
    return float((first - second).norm() / second.norm())


def choose_threads(series: Series, worker: Worker, say: Say) -> None:
    """The number of threads with which a short trial is fastest. W4 takes what was found for W1."""
    if worker.device != "cpu":
        return
    name = f"W1 {worker.side}" if worker.workload == "W4" else series.name
    if name not in _chosen:
        for threads in THREADS:
            seconds = worker.run(TRIAL_ROUNDS + 1, threads)["seconds"][1:]
            series.trial[threads] = statistics.median(seconds)
        _chosen[name] = min(series.trial, key=series.trial.__getitem__)
        say(f"{series.name}: {_chosen[name]} threads of " + ", ".join(f"{n}: {_ms(s)}" for n, s in series.trial.items()))
    worker.threads = series.threads = _chosen[name]


def take_turn(series: Series, worker: Worker, number: int, say: Say) -> None:
    """One repetition."""
    if worker.is_flower:
        if number < FLOWER_REPETITIONS:
            done = worker.run(FLOWER_ROUNDS[series.name] + 1)
            series.first.append(done["seconds"][0])
            _add(series, done["seconds"][1:], done["examples"][1:])
    else:
        rounds = int(TURN_SECONDS / statistics.median(series.seconds[0])) if series.seconds else 2
        done = worker.run(min(max(rounds, 1), MOST_ROUNDS))
        _add(series, done["seconds"], done["examples"])
    series.resident, series.private = worker.memory.resident, worker.memory.private
    say(f"{series.name}: {_ms(series.per_repetition()[-1])} a round, repetition {number + 1}")


def _add(series: Series, seconds: list[float], examples: list[int]) -> None:
    series.seconds.append(seconds)
    series.examples.append(examples)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
