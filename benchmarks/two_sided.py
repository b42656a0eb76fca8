"""What two-sided cores cost: ``python -m benchmarks.two_sided [--rounds 10] [--turns 15]``.

W1 with cores of (8, 48), (8, 48) and (5, 32) between a fresh L and a fixed R, beside W1 with the left sketch of rank 1:
a round in CPU time, one thread, the two in turn in one process.
"""

import argparse
import dataclasses
import statistics
import time

import torch

from benchmarks.sides.ours import Side
from benchmarks.workloads import WORKLOADS
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.basis import random
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora

W1 = WORKLOADS["W1"]
CORES = AdaptSpec({"layers.0": (8, 48), "layers.1": (8, 48), "layers.2": (5, 32)}, rslora=True, basis="random")


def cores() -> Side:
    """W1 with the cores in the place of the left factors."""
    side, server = Side(W1, "cpu"), ServerSpec(W1.cohort)
    local = dataclasses.replace(W1.local, lr=1e-4)  # the time of a round does not follow from it
    method = Method("Two-sided", side="both")
    strategy = FedRacLora(W1.build(), W1.spec("cpu"), method=method, adapt=CORES, local=local, server=server)
    strategy.basis = {b.key("A"): random(1, b.name, b.n, b.columns or b.n) for b in strategy.blocks}
    side.strategy = strategy
    return side


def main() -> None:
    """Prints the medians of both and of their ratios."""
    parser = argparse.ArgumentParser(description="Two-sided cores beside the left sketch of rank 1.")
    parser.add_argument("--rounds", type=int, default=10, help="in a turn")
    parser.add_argument("--turns", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sides, taken = {"left, rank 1": Side(W1, "cpu"), "two-sided": cores()}, dict[str, list[float]]()
    for side in sides.values():
        side.run(3)
    for _ in range(given.turns):
        for name, side in sides.items():
            begin = time.process_time()
            side.run(given.rounds)
            taken.setdefault(name, []).append((time.process_time() - begin) / given.rounds)
    for name, times in taken.items():
        print(f"{name}: {1e3 * statistics.median(times):.2f} ms a round")
    ratios = [b / a for a, b in zip(*taken.values(), strict=True)]
    print(f"two-sided / left: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
