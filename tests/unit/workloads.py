"""Small problems in float64, one for every kind of layer, all with rectangular weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = (1, 3, 7, 10, 23)  # examples of each client
EXAMPLES = sum(SIZES)


@dataclass(frozen=True)
class Workload:
    """A model, its data, its loss (one number a row), and the parameters to train in full."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    full: tuple[str, ...] = ()


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().flatten(1).sum(1)


def entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, averaged over positions where there are several."""
    return F.cross_entropy(outputs, targets, reduction="none").reshape(len(outputs), -1).mean(1)


def shards(sizes: tuple[int, ...] = SIZES) -> list[Tensor]:
    """Rows of each client: consecutive, but the clients' ranges in no order of size."""
    return list(torch.arange(sum(sizes)).split(list(sizes)))


class Tied(nn.Module):
    """Predicts the next token with the embedding as the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(5, 9, bias=False)
        self.head.weight = self.embed.weight
        self.middle = nn.Linear(5, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embed(ids)))).transpose(1, 2)


class Positions(nn.Module):
    """Adds an embedding of positions that all rows share."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.norm, self.out = nn.Embedding(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.norm(self.positions(torch.arange(x.shape[1])[None]))
        return self.out(torch.tanh(x + shared)).mean(1)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _values(*shape: int) -> Tensor:
    return torch.randn(EXAMPLES, *shape, generator=_generator(), dtype=torch.float64)


def _ids(bound: int, *shape: int) -> Tensor:
    return torch.randint(bound, (EXAMPLES, *shape), generator=_generator())


def mlp() -> Workload:
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))
    return Workload(model, _values(6), _values(3), squared, ("*.bias", "1.weight"))


def dense() -> Workload:
    """Nothing but layers one after another, one of them without a bias."""
    layers = (nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3))
    return Workload(nn.Sequential(*layers), _values(6), _values(3), squared, ("*.bias",))


def normed() -> Workload:
    """The same with norms before, between and behind an activation; they stay as they are."""
    norms = [nn.LayerNorm(6), nn.LayerNorm(5, eps=0.1), nn.LayerNorm(4, bias=False)]
    layers = (norms[0], nn.Linear(6, 5), norms[1], nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), norms[2], nn.Linear(4, 3))
    return Workload(nn.Sequential(*layers), _values(6), _values(3), squared, ("1.bias",))


def linear() -> Workload:
    return Workload(nn.Linear(6, 5, bias=False), _values(6), _values(5), squared)


def conv() -> Workload:
    """Stride, padding and dilation that differ by direction; padding "same" with an even kernel."""
    first = nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    second = nn.Conv2d(6, 5, (2, 3), padding="same", dilation=(1, 2), bias=False)
    model = nn.Sequential(first, nn.GroupNorm(2, 6), nn.Tanh(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Workload(model, _values(3, 5, 6), _values(5), squared, ("0.bias", "1.*"))


def grouped() -> Workload:
    """Groups, depthwise, padding "valid", and padding that wraps around."""
    layers = [
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", groups=2),
        nn.Tanh(),
        nn.Conv2d(6, 6, 2, groups=6, padding="valid"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return Workload(nn.Sequential(*layers), _values(4, 3, 4), _values(6), squared, ("*.bias",))


def text() -> Workload:
    layers = [nn.Embedding(7, 4, padding_idx=2), nn.Flatten(), nn.Linear(12, 3)]
    return Workload(nn.Sequential(*layers), _ids(7, 3), _ids(3), entropy, ("*.bias",))


def tied() -> Workload:
    return Workload(Tied(), _ids(9, 4), _ids(9, 4), entropy, ("*.bias",))


def positions() -> Workload:
    return Workload(Positions(), _values(4, 6), _values(3), squared, ("norm.*",))


FACTORIES = (mlp, dense, conv, grouped, text, tied, positions)


def make(factory: Callable[[], Workload], dtype: torch.dtype = torch.float64) -> Workload:
    """The workload with weights that are the same in every test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        workload = factory()
    inputs, targets = (x.to(dtype) if x.is_floating_point() else x for x in (workload.inputs, workload.targets))
    model = workload.model.to(torch.float64).to(dtype)
    return Workload(model, inputs, targets, workload.loss, workload.full)
