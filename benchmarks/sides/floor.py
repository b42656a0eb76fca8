"""The products with the frozen weights alone, in the shapes of a round: no round of a cohort in lockstep is faster.

Forward ``x W^T`` of every linear layer, and backward ``g W`` of all but the first, for every step of equal clients; of
the two libraries that PyTorch has for them, by the one that fedrac takes.
"""

import time

import torch
from torch import nn

from benchmarks.workloads import Workload
from fedrac.training.products import linear, linear_back


class Side:
    def __init__(self, workload: Workload, device: str) -> None:
        self.layers = [m.weight.detach().to(device) for m in workload.build().modules() if isinstance(m, nn.Linear)]
        rows = workload.cohort * workload.local.batch_size
        self.steps = workload.local.steps(workload.examples // workload.clients)
        self.forward = [(torch.randn(rows, w.shape[1], device=device), w) for w in self.layers]
        self.backward = [(torch.randn(rows, w.shape[0], device=device), w) for w in self.layers[1:]]
        self.device, self.round = device, 0

    def run(self, rounds: int) -> list[float]:
        self.round += rounds
        times = [time.monotonic()]
        for _ in range(rounds):
            for _ in range(self.steps):
                for x, w in self.forward:
                    linear(x, w)
                for g, w in self.backward:
                    linear_back(g, w)
            if self.device != "cpu":
                torch.cuda.synchronize()
            times.append(time.monotonic())
        return times
