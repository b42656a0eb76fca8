"""One label for an example."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedrac.data.tasks.labels import check_classes, check_labels, names_of
from fedrac.data.tasks.task import Task

_SHORT = 16  # PyTorch's softmax along rows shorter than that is slow: it goes number by number


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (rows,) of logits (rows, classes) and labels (rows,) int64."""
    if outputs.shape[1] >= _SHORT:
        return F.cross_entropy(outputs, targets, reduction="none")
    return F.nll_loss(outputs.T.contiguous().log_softmax(0).T, targets, reduction="none")


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
