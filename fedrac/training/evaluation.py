"""A model tested on examples: means over them, and metrics of all predictions together."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrac.data import metrics
from fedrac.data.batch import Batch
from fedrac.data.tasks import Task
from fedrac.training.bfloat16 import in_float32
from fedrac.training.outputs import outputs_of


def call(model: nn.Module, inputs: object) -> Tensor:
    """The model's outputs, in float32 where it computes in less; inputs in a mapping are keyword arguments.

    Raises:
        ValueError: it is not clear which of the things that the model returns they are (`outputs_of`).
    """
    out = outputs_of(model(**inputs) if isinstance(inputs, dict) else model(inputs))
    return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out


@torch.no_grad()
def sums(model: nn.Module, task: Task, batches: Iterable[Batch]) -> dict[str, float]:
    """Sums of every metric over the examples, and their number (``examples``); they add up over clients."""
    totals = {"examples": 0.0}
    model.eval()
    with in_float32(model):
        for inputs, targets in batches:
            _add(totals, task.sums(call(model, inputs), targets), len(targets))
    return totals


@torch.no_grad()
def measure(model: nn.Module, task: Task, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, float]:
    """Mean of every metric over all examples, and the metrics ``names`` of all predictions (`fedrac.data.metrics`)."""
    totals, pairs = {"examples": 0.0}, []
    model.eval()
    with in_float32(model):
        for inputs, targets in batches:
            outputs = call(model, inputs)
            _add(totals, task.sums(outputs, targets), len(targets))
            if names:
                pairs.append((_array(task.predictions(outputs)), _array(targets)))
    count = totals.pop("examples")
    means = {name: total / count for name, total in totals.items()}
    if not names:
        return means
    predictions, expected = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return {**means, **metrics.measure(names, predictions, expected)}


def _add(totals: dict[str, float], found: dict[str, float], examples: int) -> None:
    for name, total in {**found, "examples": float(examples)}.items():
        totals[name] = totals.get(name, 0.0) + total


def _array(values: Tensor) -> NDArray[Any]:
    values = values.cpu()
    return (values.double() if values.is_floating_point() else values).numpy()
