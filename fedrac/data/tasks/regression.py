"""One or several values for an example."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from fedrac.data.tasks.task import Task


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared error, summed over the k outputs, (rows,), of values (rows, k)."""
    return 0.5 * (outputs - targets).square().sum(dim=1)


def metrics(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """``mse``: the squared error averaged over the k outputs."""
    return {"mse": (outputs - targets).double().square().mean(dim=1).sum().item()}


def predictions(outputs: Tensor) -> Tensor:
    """The values (rows, k) themselves."""
    return outputs


def answer(outputs: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """The value, or the k values."""
    values = outputs.tolist()
    return {"value": values[0]} if len(values) == 1 else {"values": values}


def check_targets(targets: NDArray[Any], what: str) -> None:
    """Any number is a value."""


def check_outputs(outputs: Tensor, targets: NDArray[Any]) -> None:
    """Outputs (rows, k) of a few examples must have a column for each value of the targets (N, k).

    Raises:
        ValueError: they do not.
    """
    check_width(outputs, targets, "values")


def check_width(outputs: Tensor, targets: NDArray[Any], what: str) -> None:
    """Raises ValueError where outputs (rows, k) do not have one column for each of the targets' (N, k)."""
    if outputs.ndim != 2:
        raise ValueError(
            f"the model's outputs have shape {tuple(outputs.shape)}: make them (rows, outputs), one for each of the "
            f"{targets.shape[1]} {what}"
        )
    if targets.shape[1] != outputs.shape[1]:
        raise ValueError(
            f"the targets have shape {targets.shape} but the model has {outputs.shape[1]} outputs: set "
            f"model.outputs={targets.shape[1]}, and give targets as (N, outputs)"
        )


TASK = Task("regression", 2, "float32", loss, metrics, predictions, answer, check_targets, check_outputs)
