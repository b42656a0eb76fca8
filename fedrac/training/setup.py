"""What a cohort trains on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from fedrac.algorithm.blocks import Block

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


@dataclass
class ModelHabits:
    """What the steps so far have shown of a model, so that later ones need not be watched for it.

    Attributes:
        dropout: whether it drops anything in training; None: not known yet.
    """

    dropout: bool | None = None


@dataclass(frozen=True)
class TrainingSetup:
    """What one cohort trains on.

    Attributes:
        model: holds the frozen weights.
        blocks: the trained parameters.
        loss: (outputs, targets) to one loss a row.
        take: (rows,) int64 to the model's inputs and the targets of those examples.
        habits: what is known of the model; give the same object again to the next round's problem.
    """

    model: nn.Module
    blocks: Sequence[Block]
    loss: Loss
    take: Take
    habits: ModelHabits = field(default_factory=ModelHabits)
