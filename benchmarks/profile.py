"""Where the time of a round goes: ``python -m benchmarks.profile [W1|W2|...] [--threads 1] [--rounds 50] [--cpu]``.

Times are exclusive: what a part calls and is listed itself does not count twice.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F

from benchmarks.sides import floor, ours
from benchmarks.workloads import WORKLOADS
from fedrac.flower import client_app, host
from fedrac.flower.host import Host
from fedrac.flower.round_loop import Loop
from fedrac.flower.rounds import Rounds
from fedrac.training import local, plain_layers
from fedrac.training.adapter import CohortAdapter
from fedrac.training.minibatches import Minibatches
from fedrac.training.optimizer import StackedOptimizer
from fedrac.training.plain_network import PlainNetwork
from fedrac.training.setup import TrainingSetup

PARTS = (
    ("cohort, sketches", Rounds, "begin"),
    ("messages", Rounds, "messages"),
    ("reading the plan", client_app, "decode_plan"),
    ("host: weights, sketches, shards", Host, "train"),
    ("lockstep: copies, bookkeeping", host, "train_cohort"),
    ("orders of examples", Minibatches, "__init__"),
    ("gather of examples", Host, "_take"),
    ("forward: modules, activations", local, "call"),
    ("forward: products with W", F, "linear"),
    ("forward: products with W", plain_layers, "_product"),
    ("forward: updates s B A", CohortAdapter, "_add"),
    ("plain networks: updates, activations, gradients", PlainNetwork, "gradients"),
    ("loss and its gradient", TrainingSetup, "loss_gradient"),
    ("backward", torch.autograd, "grad"),
    ("optimizer", StackedOptimizer, "step"),
    ("reply", client_app, "encode_reply"),
    ("checks, mean, server step", Rounds, "finish"),
)
Clock = Callable[[], float]
REST = "between them: Flower's messages"


class Stopwatch:
    """Exclusive seconds of functions that call one another."""

    def __init__(self, clock: Clock) -> None:
        self.seconds: Counter[str] = Counter()
        self._clock = clock
        self._inner: list[float] = []

    def timed(self, part: str, function: Any) -> Any:
        """``function``, whose time is ``part``'s."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            begin = self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                whole = self._clock() - begin
                self.seconds[part] += whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        return call


def profile(workload: str, rounds: int, clock: Clock) -> list[Counter[str]]:
    """Seconds of every part, a round; before them, some rounds to get warm."""
    side, found = ours.Side(WORKLOADS[workload], "cpu"), []
    side.run(3)
    for _ in range(rounds):
        watch = Stopwatch(clock)
        parts = (*PARTS, (REST, Loop, "run"))
        patches = [patch.object(o, name, watch.timed(part, getattr(o, name))) for part, o, name in parts]
        for one in patches:
            one.start()
        side.run(1)
        for one in patches:
            one.stop()
        found.append(watch.seconds)
    return found


def products(workload: str, rounds: int, clock: Clock) -> float:
    """Seconds of a round's products with the frozen weights alone."""
    side, times = floor.Side(WORKLOADS[workload], "cpu"), []
    for _ in range(rounds):
        begin = clock()
        side.run(1)
        times.append(clock() - begin)
    return statistics.median(times)


def main() -> None:
    """Prints a table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description="Where a round's time goes.")
    parser.add_argument("workload", nargs="?", default="W1", choices=WORKLOADS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--cpu", action="store_true", help="CPU time, for a machine that is busy with other things")
    given = parser.parse_args()
    clock = time.process_time if given.cpu else time.perf_counter
    torch.set_num_threads(given.threads)
    found = profile(given.workload, given.rounds, clock)
    typical = {part: statistics.median(one[part] for one in found) for part in [*(p for p, _, _ in PARTS), REST]}
    whole = sum(typical.values())
    print(f"| {given.workload}, {given.threads} thread(s), {given.rounds} rounds | ms | share |\n| --- | ---: | ---: |")
    for part, seconds in sorted(typical.items(), key=lambda item: -item[1]):
        print(f"| {part} | {1e3 * seconds:.2f} | {seconds / whole:.0%} |")
    alone = products(given.workload, given.rounds, clock)
    print(f"| **a round** | {1e3 * whole:.2f} | |")
    print(f"| its products with W alone | {1e3 * alone:.2f} | {alone / whole:.0%} |")


if __name__ == "__main__":
    main()
