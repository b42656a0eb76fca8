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
    """Cross-entropy (rows,) of logits (rows, classes) and labels (rows,); of a few classes on a CPU in float64."""
    logs, along = _log_probabilities(outputs)
    return F.nll_loss(logs.T if along else logs, targets, reduction="none")


def gradient(outputs: Tensor, targets: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The losses (rows,), and the gradient (rows, classes) of their sum with ``weight`` (rows,), written out.

    Every row has a label: none is left out, as -100 is of ``loss``.
    """
    logs, along = _log_probabilities(outputs)
    at, each = (targets.unsqueeze(0), weight) if along else (targets.unsqueeze(1), weight.unsqueeze(1))
    found = logs.exp().scatter_(1 - along, at, -1.0, reduce="add").mul_(each)
    wanted = outputs.new_empty(outputs.shape).copy_(found.T) if along else found  # turned and rounded in one go
    return logs.gather(1 - along, at).neg_().flatten(), wanted


def _log_probabilities(outputs: Tensor) -> tuple[Tensor, bool]:
    """The logarithms of the probabilities of the classes: (classes, rows) and True where there are few of them.

    On a CPU those of a few classes are float64: the gradient, rounded to the logits' float32, is then the same with and
    without AVX-512, whose exponential function has other last digits.
    """
    if outputs.shape[1] >= _SHORT:
        return outputs.log_softmax(1), False
    wide = torch.float64 if outputs.device.type == "cpu" else outputs.dtype
    return outputs.T.to(wide, memory_format=torch.contiguous_format).contiguous().log_softmax(0), True


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


TASK = Task("classification", 1, "int64", loss, metrics, predictions, answer, check_labels, check_outputs, gradient)
