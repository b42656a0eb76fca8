"""One label for each token (or step of time) of an example."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedrac.data.tasks.labels import check_classes, check_labels, check_tokens, counted, names_of
from fedrac.data.tasks.task import IGNORED, Task


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (rows, T, classes) and labels (rows, T) int64, (rows,).

    It is averaged over the tokens of a row that have a label; those with `IGNORED` count for nothing.
    """
    each = F.cross_entropy(outputs.mT, targets, reduction="none", ignore_index=IGNORED)
    return each.sum(1) / counted(targets, IGNORED)


def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """``accuracy``: the share of a row's labelled tokens that are right."""
    right = (predictions(outputs) == targets).sum(1) / counted(targets, IGNORED)
    return {"accuracy": right.double().sum().item()}


def predictions(outputs: Tensor) -> Tensor:
    """Labels (rows, T) int64."""
    return outputs.argmax(dim=2)


def answer(logits: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """The likeliest label of each token, of logits (T, classes)."""
    names = names_of(labels, logits.shape[1])
    return {"tags": [names[i] for i in logits.argmax(1).tolist()]}


def check_targets(targets: NDArray[Any], what: str) -> None:
    """Labels (N, T) of tokens must be 0, 1, ..., or `IGNORED`.

    Raises:
        ValueError: some are not; it says ``what`` they are.
    """
    check_labels(targets[targets != IGNORED], what)


def check_outputs(outputs: Tensor, targets: NDArray[Any]) -> None:
    """Outputs (rows, T, classes) of a few texts must have a column for each of all labels (N, T).

    Raises:
        ValueError: they do not.
    """
    check_tokens(outputs, "tagging", "classes", "choose a model with a label for each token, or another data.task")
    check_classes(targets, outputs.shape[2])


TASK = Task("tagging", 2, "int64", loss, metrics, predictions, answer, check_targets, check_outputs)
