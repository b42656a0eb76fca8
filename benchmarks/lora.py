"""Low-rank adaptation as one writes it for a single client: what the peers run."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads import SEED, Workload
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.streams import Stream


class LoRALinear(nn.Module):
    """``x W^T + s (x A^T) B^T``: W and B are frozen, A is trained."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        self.A = nn.Parameter(torch.zeros(rank, base.in_features))
        self.register_buffer("B", torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T


class Adapted:
    """The model of a workload with a `LoRALinear` for every adapted layer; trains one client at a time."""

    def __init__(self, workload: Workload, device: str = "cpu") -> None:
        self.workload = workload
        self.model = workload.build()
        self.blocks = plan_blocks(self.model, workload.adapt, Method())
        self.model.requires_grad_(False)
        self.layers: dict[str, LoRALinear] = {}
        for block in self.blocks:
            path = block.name.removesuffix(".weight")
            self.layers[block.name] = LoRALinear(self.model.get_submodule(path), block.rank, block.scale)
            self.model.set_submodule(path, self.layers[block.name])
        self.model.to(device)
        self.factors = [layer.A for layer in self.layers.values()]

    def begin(self, round_: int) -> None:
        """Draws the round's B; A is zero."""
        sketches = draw_sketches(self.blocks, Method(), SketchSpec(seed=SEED), round_)
        for name, layer in self.layers.items():
            layer.B.copy_(sketches.values[name])
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        for factor in self.factors:
            factor.zero_()

    def train(self, x: Tensor, y: Tensor) -> None:
        """One epoch over a client's examples, in their order."""
        self.train_on(zip(x.split(self.batch_size), y.split(self.batch_size), strict=True))

    def train_on(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """The same over its mini-batches."""
        optimizer = self.optimizer()
        for inputs, targets in batches:
            loss = F.cross_entropy(self.model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @property
    def batch_size(self) -> int:
        return self.workload.local.batch_size

    def optimizer(self) -> torch.optim.Optimizer:
        local = self.workload.local
        if local.optimizer == "sgd":
            return torch.optim.SGD(self.factors, lr=local.lr)
        return torch.optim.AdamW(self.factors, lr=local.lr, weight_decay=local.weight_decay)

    @torch.no_grad()
    def merge(self, means: list[Tensor]) -> None:
        """``W + s B A`` with the mean of the clients' A."""
        for layer, mean in zip(self.layers.values(), means, strict=True):
            layer.base.weight += layer.scale * layer.B @ mean

    def weights(self) -> dict[str, Tensor]:
        """The adapted weights, by the names that they have in the model."""
        return {name: layer.base.weight for name, layer in self.layers.items()}


def order(round_: int, client: int, size: int) -> Tensor:
    """The order in which a client sees its examples; fedrac draws the same."""
    return torch.from_numpy(Stream(SEED, "order", round_, client).permutation(size))
