"""Layers of torch, one kind at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from architectures.architecture import CLASSES, COMPUTED, WORDS, Architecture, ids, images, series, vectors


class Mean(nn.Module):
    """A module, and a linear layer on the mean of what it gives over all but rows and channels (``at``)."""

    def __init__(self, inner: nn.Module, width: int, at: int = 1) -> None:
        super().__init__()
        self.inner, self.head, self.at = inner, nn.Linear(width, CLASSES), at

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x).tanh()
        return self.head(y.movedim(self.at, 1).flatten(2).mean(2) if y.ndim > 2 else y)


class Tied(nn.Module):
    """A language model whose output layer is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(WORDS, 6), nn.Linear(6, 6), nn.Linear(6, WORDS, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.embedding(x)).tanh())


class Twice(nn.Module):
    """One layer at two depths."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.inner(x).tanh()).tanh())


class Two(nn.Module):
    """Every row against itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Bilinear(6, 6, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x, x.flip(1)).tanh())


class OwnParameter(nn.Module):
    """A matrix that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.head = nn.Parameter(torch.randn(6, 4)), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.matrix).tanh())


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 4 * F.linear(F.normalize(x), F.normalize(self.weight))


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w / (w.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5), self.bias)


class Outputs(nn.Module):
    def __init__(self, returned: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.head, self.returned = nn.Linear(6, CLASSES), returned

    def forward(self, x: Tensor) -> object:
        return self.returned(self.head(x))


def of(name: str, make: Callable[[], nn.Module], inputs: Callable[[], Tensor] = vectors, **more: Any) -> Architecture:
    return Architecture(name, "layers of torch", make, inputs, **more)


def mlp(*between: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *(make() for make in between), nn.Linear(8, CLASSES))


def conv(layer: Callable[..., nn.Module], dimensions: int, *arguments: Any, **options: Any) -> Architecture:
    size = (3, *[6, 6, 5][:dimensions])
    text = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in options.items())])
    make = partial(lambda: Mean(layer(3, 6, *arguments, **options), 6))
    return of(f"{layer.__name__}({text})", make, partial(_volume, size))


def _volume(size: tuple[int, ...]) -> Tensor:
    return torch.randn(16, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _norm(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Conv2d(3, 4, 3), layer(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES))


LAYERS = (
    of("Linear", partial(nn.Linear, 6, CLASSES)),
    of("MLP", lambda: mlp(nn.ReLU)),
    of("MLP, several labels", lambda: mlp(nn.GELU), task="multi_label"),
    of("MLP, regression", lambda: mlp(nn.SiLU), task="regression"),
    of("MLP with PReLU", lambda: mlp(nn.PReLU)),
    of("MLP with LayerNorm", lambda: mlp(partial(nn.LayerNorm, 8), nn.Tanh)),
    of("MLP with RMSNorm", lambda: mlp(partial(nn.RMSNorm, 8), nn.Tanh)),
    of("MLP with BatchNorm1d (frozen)", lambda: mlp(partial(nn.BatchNorm1d, 8), nn.Tanh)),
    of("CNN with BatchNorm2d (frozen)", _norm(lambda: nn.BatchNorm2d(4)), images),
    of("CNN with GroupNorm", _norm(lambda: nn.GroupNorm(2, 4)), images),
    of("CNN with InstanceNorm2d", _norm(lambda: nn.InstanceNorm2d(4, affine=True)), images),
    of("CNN with LocalResponseNorm", _norm(lambda: nn.LocalResponseNorm(2)), images),
    conv(nn.Conv1d, 1, 3),
    conv(nn.Conv1d, 1, 3, dilation=2, padding=2, groups=3),
    conv(nn.Conv2d, 2, 3),
    conv(nn.Conv2d, 2, 3, stride=2, padding=1, padding_mode="circular"),
    conv(nn.Conv2d, 2, 3, groups=3, bias=False),
    conv(nn.Conv3d, 3, 3, padding=1),
    conv(nn.ConvTranspose1d, 1, 3),
    conv(nn.ConvTranspose2d, 2, 3, stride=2),
    conv(nn.ConvTranspose3d, 3, 2),
    of("Embedding", lambda: Mean(nn.Embedding(WORDS, 6), 6, 2), ids),
    of("Embedding with padding_idx", lambda: Mean(nn.Embedding(WORDS, 6, padding_idx=4), 6, 2), ids),
    of("EmbeddingBag", lambda: Mean(nn.EmbeddingBag(WORDS, 6), 6), ids),
    of("Bilinear", Two),
    of("tied embedding", Tied, partial(ids, 5), task="tagging"),
    of("one layer used twice", Twice),
    of("a parameter of one's own", OwnParameter),
    of("a subclass of Linear (cosine)", lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Cosine(8, CLASSES, False))),
    of("a subclass of Conv2d (weight standardisation)", lambda: Mean(StandardisedConv(3, 6, 3), 6), images),
    of("weight_norm", lambda: mlp(lambda: parametrizations.weight_norm(nn.Linear(8, 8))), refused=COMPUTED),
    of("spectral_norm", lambda: mlp(lambda: parametrizations.spectral_norm(nn.Linear(8, 8))), refused=COMPUTED),
    of("outputs in a dict", lambda: Outputs(lambda y: {"logits": y, "hidden": 2 * y})),
    of("outputs in a tuple", lambda: Outputs(lambda y: (y, 2 * y))),
    of("a label for each token", lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)), series,
       task="tagging"),
)  # fmt: skip
