"""pfl (https://github.com/apple/pfl-research): federated averaging of the trained factors, merged after every round."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.lora import Adapted, order
from benchmarks.workloads import Workload


class Net(nn.Module):
    """The adapted model with the two functions that pfl calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.model(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


class Side(TrainingProcessCallback):
    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.round, self.times = workload, 0, []
        self.adapted = Adapted(workload, device)
        train = workload.data.train
        self.x, self.y = torch.tensor(train.inputs), torch.tensor(train.targets)
        clients, factors = self.clients(), self.adapted.factors
        users = FederatedDataset(self.dataset, lambda: next(clients))
        self.model = PyTorchModel(
            Net(self.adapted.model),
            lambda _, lr: torch.optim.SGD(factors, lr=lr),
            torch.optim.SGD(factors, lr=1.0),
        )
        self.algorithm, self.backend = FederatedAveraging(), SimulatedBackend(users, users)

    def clients(self) -> Iterator[int]:
        """The cohort of round 1, 2, ..."""
        while True:
            yield from self.workload.cohort_of(self.round + 1)

    def dataset(self, client: int) -> Dataset:
        rows = torch.from_numpy(self.workload.shards[client])
        rows = rows[order(self.round + 1, client, len(rows))]
        return Dataset([self.x[rows], self.y[rows]], user_id=str(client))

    def run(self, rounds: int) -> list[float]:
        local = self.workload.local
        self.times = [time.monotonic()]
        self.adapted.begin(self.round + 1)
        self.algorithm.run(
            NNAlgorithmParams(self.round + rounds, 10**9, self.workload.cohort, None),
            self.backend,
            self.model,
            NNTrainHyperParams(local.batch_size, local_num_epochs=1, local_learning_rate=local.lr),
            NNEvalHyperParams(None),
            [self],
            send_metrics_to_platform=False,
        )
        return self.times

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        """The chain: merge the mean of the factors, draw the next B, start from zero."""
        self.round += 1
        self.adapted.merge([factor.detach() for factor in self.adapted.factors])
        self.adapted.begin(self.round + 1)
        self.times.append(time.monotonic())
        return False, Metrics()

    def weights(self) -> dict[str, Tensor]:
        return self.adapted.weights()
