"""What a cohort trains on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedrac.algorithm.blocks import Block
from fedrac.training.plain_network import LossGradient, PlainNetwork
from fedrac.training.way import Layer, Way

Loss = Callable[[Tensor, Any], Tensor]
Take = Callable[[Tensor], tuple[object, Any]]


@dataclass(frozen=True)
class Shard:
    """One client's part of the data.

    Attributes:
        client: its id.
        index: (examples,) int64, rows of the data that belong to it.
        rank: it trains the first so many columns of the sketch; None: all.
        own: by `Block.key`, where it goes on with the factors that stay with it; what is missing starts as for all.
    """

    client: int
    index: Tensor
    rank: int | None = None
    own: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.index.shape[0]


@dataclass
class KnownWays:
    """How a model is trained, found before its first step and kept for the rounds after it.

    Attributes:
        found: by what is trained: the keys of the trained factors.
        networks: by the same keys in their order, where gradients are written out; they keep the memory of a step.
    """

    found: dict[frozenset[str], Way] = field(default_factory=dict)
    networks: dict[tuple[str, ...], PlainNetwork] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSetup:
    """What one cohort trains on.

    Attributes:
        model: holds the frozen weights.
        blocks: the trained parameters.
        loss: (outputs, targets) to one loss a row.
        take: (rows,) int64 to the model's inputs and the targets of those examples, as the loss takes them; a later
            call may write over them.
        ways: what is known of the model; give the same object again to the next round's problem.
        lengths: (examples,) int64, tokens of every text of the data; None: they have no lengths.
        gradient: (outputs, targets, weight (rows,)) to the losses and the gradient of their weighted sum (rows, ...),
            where one is written out; None: the loss is differentiated.
    """

    model: nn.Module
    blocks: Sequence[Block]
    loss: Loss
    take: Take
    ways: KnownWays = field(default_factory=KnownWays)
    lengths: Tensor | None = None
    gradient: LossGradient | None = None

    def network(self, way: Way, trained: Sequence[str]) -> PlainNetwork:
        """The model as a plain network, which is what ``way`` says it is; the same one in every round."""
        kept, key = self.ways.networks, tuple(trained)
        if key not in kept or not all(a is b for a, b in zip(kept[key].of, self._plain(way), strict=True)):
            kept[key] = PlainNetwork(*self._plain(way), trained)
        return kept[key]

    def _plain(self, way: Way) -> tuple[nn.Module, Sequence[Block], Sequence[Layer]]:
        return self.model, self.blocks, way.plain

    def loss_gradient(self, outputs: Tensor, targets: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (rows,), and the gradient of the outputs (rows, ...), of their sum with ``weight`` (rows,)."""
        if self.gradient is not None:
            return self.gradient(outputs, targets, weight)
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            losses = self.loss(outputs, targets).flatten()
            (g,) = torch.autograd.grad(losses, outputs, weight.to(losses.dtype))
        return losses.detach().clone(), g.contiguous()  # a loss may be a part of the outputs, whose memory stays
