"""Several labels at once, each of which an example has or has not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedrac.data.tasks.labels import names_of
from fedrac.data.tasks.regression import check_width
from fedrac.data.tasks.task import Task


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits (rows, k) and targets (rows, k) of 0 and 1, averaged over the k labels, (rows,).

    The mean, not the sum, as ``torch.nn.BCEWithLogitsLoss`` and transformers have it: a learning rate that suits 5
    labels suits 50.
    """
    return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none").mean(1)


def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """``accuracy``: the share of an example's labels that are right; ``exact_match``: 1 where all of them are."""
    right = predictions(outputs) == targets
    return {"accuracy": right.double().mean(1).sum().item(), "exact_match": float(right.all(1).sum().item())}


def predictions(outputs: Tensor) -> Tensor:
    """1 where a label's probability is above 1/2, else 0: (rows, k) int64."""
    return (outputs > 0).long()


def answer(logits: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """The labels with a probability above 1/2, and the probability of each, of logits (k,)."""
    names, shares = names_of(labels, len(logits)), logits.sigmoid().tolist()
    each = {name: round(share, 6) for name, share in zip(names, shares, strict=True)}
    return {"labels": [name for name, share in each.items() if share > 0.5], "probabilities": each}


def check_targets(targets: NDArray[Any], what: str) -> None:
    """Targets (N, k) must be 0 or 1.

    Raises:
        ValueError: some are not; it names the first such row, and ``what`` they are.
    """
    if (bad := ~np.isin(targets, (0, 1)).all(axis=1)).any():
        raise ValueError(
            f"{what} hold {targets[bad.argmax()].tolist()} in row {int(bad.argmax())}: a multi_label has 1 for a label "
            "that is there and 0 for one that is not"
        )


def check_outputs(outputs: Tensor, targets: NDArray[Any]) -> None:
    """Outputs (rows, k) of a few examples must have a column for each label of the targets (N, k).

    Raises:
        ValueError: they do not.
    """
    check_width(outputs, targets, "labels")


TASK = Task("multi_label", 2, "float32", loss, metrics, predictions, answer, check_targets, check_outputs)
