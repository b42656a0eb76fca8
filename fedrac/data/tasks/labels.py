"""What the tasks with labels have in common."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor


def check_labels(labels: NDArray[Any], what: str) -> None:
    """Raises ValueError for a negative label."""
    if labels.size and labels.min() < 0:
        raise ValueError(f"{what} hold the label {labels.min()}: number the classes 0, 1, 2, ...")


def check_classes(labels: NDArray[Any], width: int) -> None:
    """Raises ValueError for a label beyond ``width`` outputs."""
    if (high := int(labels.max(initial=0))) >= width:
        raise ValueError(
            f"label {high} but the model has {width} outputs: set model.outputs={high + 1}, or choose fewer classes"
        )


def check_tokens(outputs: Tensor, name: str, classes: str, instead: str) -> None:
    """Raises ValueError for outputs that are not (rows, tokens, classes)."""
    if outputs.ndim != 3:
        raise ValueError(
            f"the model's outputs have shape {tuple(outputs.shape)}: a {name} gives (rows, tokens, {classes}), so "
            f"{instead}"
        )


def names_of(labels: Sequence[str], count: int) -> Sequence[str]:
    """What the classes are called: by their numbers where they have no names."""
    return labels or [str(i) for i in range(count)]


def counted(labels: Tensor, ignored: int) -> Tensor:
    """How many tokens of each row count, (rows,); 1 where there are none, so that their mean is 0."""
    return (labels != ignored).sum(1).clamp_min(1)
