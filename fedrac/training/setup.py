"""What a cohort trains on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fedrac.algorithm.blocks import Block
from fedrac.training.way import Way

Loss = Callable[[Tensor, Any], Tensor]
LossGradient = Callable[[Tensor, Any, Tensor], tuple[Tensor, Tensor]]
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
    """

    found: dict[frozenset[str], Way] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSetup:
    """What one cohort trains on.

    Attributes:
        model: holds the frozen weights.
        blocks: the trained parameters.
        loss: (outputs, targets) to one loss a row.
        take: (rows,) int64 to the model's inputs and the targets of those examples, as the loss takes them.
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
