"""Logits shifted by what is frequent on a client: against clients that have few of the classes.

A client that sees one class often learns first of all to say it. With ``logits + strength x log share`` in its loss
(arXiv 2007.07314; for clients: arXiv 2209.00189) that much is already said, and the weights learn the rest. The model
itself, and what it predicts, has no shift. The shares are counted with one more example of each class, and stay here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedrac.training.setup import Shard, TrainingSetup


@dataclass(frozen=True)
class ShiftedLabels:
    """What stands in the place of the targets of some rows.

    Attributes:
        labels: (rows,) int64.
        shift: (rows, classes), of each row's client.
    """

    labels: Tensor
    shift: Tensor


def adjusted(
    problem: TrainingSetup, shards: Sequence[Shard], labels: Tensor, classes: int, strength: float
) -> TrainingSetup:
    """The same problem with shifted logits in the loss.

    Args:
        problem: its loss takes logits (rows, outputs) and labels (rows,).
        shards: the clients that are trained.
        labels: (N,) int64, of all rows.
        classes: how many there are; outputs beyond them are not shifted.
        strength: 1 is the shift by the log share.
    """
    owner = torch.zeros(len(labels), dtype=torch.int64)
    counts = torch.ones(len(shards), classes, dtype=torch.float64)
    for place, shard in enumerate(shards):
        owner[shard.index] = place
        counts[place] += torch.bincount(labels[shard.index], minlength=classes)
    shift = strength * (counts / counts.sum(1, keepdim=True)).log()

    def take(index: Tensor) -> tuple[object, ShiftedLabels]:
        inputs, targets = problem.take(index)
        return inputs, ShiftedLabels(targets, shift[owner[index]])

    def loss(outputs: Tensor, targets: ShiftedLabels) -> Tensor:
        own = F.pad(targets.shift.to(outputs), (0, outputs.shape[1] - classes))
        return problem.loss(outputs + own, targets.labels)

    return replace(problem, loss=loss, take=take, gradient=None)
