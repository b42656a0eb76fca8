"""What a cohort trains on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fedrac.blocks import Block

Loss = Callable[[Tensor, Tensor], Tensor]
Take = Callable[[Tensor], tuple[object, Tensor]]


@dataclass(frozen=True)
class Shard:
    """One client's part of the data.

    Attributes:
        client: its id.
        index: (examples,) int64, rows of the data that belong to it.
    """

    client: int
    index: Tensor

    def __len__(self) -> int:
        return self.index.shape[0]


@dataclass(frozen=True)
class Problem:
    """What one cohort trains on.

    Attributes:
        model: holds the frozen weights.
        blocks: the trained parameters.
        loss: (outputs, targets) to one loss a row.
        take: (rows,) int64 to the model's inputs and the targets of those examples.
        ragged: examples differ in size, so that every step is gathered on its own, padded to its own longest row.
    """

    model: nn.Module
    blocks: Sequence[Block]
    loss: Loss
    take: Take
    ragged: bool = False
