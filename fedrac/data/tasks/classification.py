"""One label for an example."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedrac.data.tasks.labels import check_classes, check_labels, names_of
from fedrac.data.tasks.task import Task

_SHORT = 16  # PyTorch's softmax along rows shorter than that is slow: it goes number by number


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (rows,) of logits (rows, classes) and labels (rows,) int64.

    On a CPU that of a few classes is computed in float64: rounded to the logits' float32, its gradient is the same with
    and without AVX-512, whose exponential function has other last digits.
    """
    if outputs.shape[1] >= _SHORT:
        return F.cross_entropy(outputs, targets, reduction="none")
    wide = torch.float64 if outputs.device.type == "cpu" else outputs.dtype
    columns = outputs.T.to(wide, memory_format=torch.contiguous_format).contiguous()
    return F.nll_loss(columns.log_softmax(0).T, targets, reduction="none").to(outputs.dtype)


def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """``accuracy``: the number of examples that are right."""
    return {"accuracy": float((predictions(outputs) == targets).sum().item())}


def predictions(outputs: Tensor) -> Tensor:
    """Labels (rows,) int64."""
    return outputs.argmax(dim=1)


def answer(logits: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """The likeliest label and the probability of each, of logits (classes,)."""
    shares = logits.softmax(0)
    names, best = names_of(labels, len(logits)), int(shares.argmax())
    each = {name: round(share, 6) for name, share in zip(names, shares.tolist(), strict=True)}
    return {"label": names[best], "probability": round(float(shares[best]), 6), "probabilities": each}


def check_outputs(outputs: Tensor, targets: NDArray[Any]) -> None:
    """Outputs (rows, classes) of a few examples must have a column for each of all labels (N,).

    Raises:
        ValueError: they do not.
    """
    if outputs.ndim != 2:
        raise ValueError(
            f"the model's outputs have shape {tuple(outputs.shape)}: make them (rows, outputs), e.g. one logit a class"
        )
    check_classes(targets, outputs.shape[1])


TASK = Task("classification", 1, "int64", loss, metrics, predictions, answer, check_labels, check_outputs)
