"""A model tested on examples: means over them, and metrics of all predictions together."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrac.data import metrics, tasks
from fedrac.data.batch import Batch
from fedrac.data.examples import Task


def call(model: nn.Module, inputs: object) -> Tensor:
    """The model's outputs; inputs in a mapping are keyword arguments."""
    out: Tensor = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return out


@torch.no_grad()
def sums(model: nn.Module, kind: Task, batches: Iterable[Batch]) -> dict[str, float]:
    """Sums of every metric over the examples, and their number (``examples``); they add up over clients."""
    totals = {"examples": 0.0}
    model.eval()
    for inputs, targets in batches:
        _add(totals, tasks.metrics(kind, call(model, inputs), targets), len(targets))
    return totals


@torch.no_grad()
def measure(model: nn.Module, kind: Task, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, float]:
    """Mean of every metric over all examples, and the metrics ``names`` of all predictions (`fedrac.data.metrics`)."""
    totals, pairs = {"examples": 0.0}, []
    model.eval()
    for inputs, targets in batches:
        outputs = call(model, inputs)
        _add(totals, tasks.metrics(kind, outputs, targets), len(targets))
        if names:
            pairs.append((_array(tasks.predictions(kind, outputs)), _array(targets)))
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
