"""A plain PyTorch loop: one client after another, the data in memory."""

import time

import torch
from torch import Tensor

from benchmarks.lora import Adapted, order
from benchmarks.workloads import Workload
from fedrac.data.batch import Rows


class Side:
    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device, self.round = workload, device, 0
        self.adapted = Adapted(workload, device)
        train = workload.data.train
        self.take = Rows(train, torch.device(device), torch.float32)  # of texts, as wide as the longest of a batch
        if not workload.reviews:
            self.x, self.y = (torch.tensor(column).to(device) for column in (train.inputs, train.targets))
        self.shards = [torch.from_numpy(shard).to(device) for shard in workload.shards]

    def run(self, rounds: int) -> list[float]:
        times = [time.monotonic()]
        for _ in range(rounds):
            self.round += 1
            self.adapted.begin(self.round)
            self.adapted.merge(self.mean_of_cohort())
            if self.device != "cpu":
                torch.cuda.synchronize()
            times.append(time.monotonic())
        return times

    def mean_of_cohort(self) -> list[Tensor]:
        sums = [torch.zeros_like(factor) for factor in self.adapted.factors]
        for client in self.workload.cohort_of(self.round):
            for total, factor in zip(sums, self.train(client), strict=True):
                total += factor
        return [total / self.workload.cohort for total in sums]

    def train(self, client: int) -> list[Tensor]:
        """The factors that a client finds from the round's start."""
        rows = self.shards[client]
        rows = rows[order(self.round, client, len(rows)).to(self.device)]
        self.adapted.reset()
        if self.workload.reviews:
            self.adapted.train_on(map(self.take, rows.cpu().split(self.adapted.batch_size)))
        else:
            self.adapted.train(self.x[rows], self.y[rows])
        return [factor.detach() for factor in self.adapted.factors]

    def weights(self) -> dict[str, Tensor]:
        return self.adapted.weights()
