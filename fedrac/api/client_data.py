"""One table of examples from those of the clients, each in the form that its owner has it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedrac.data import Data, tasks
from fedrac.data.coerce import Arrays, arrays, joined, targets_of, task_of
from fedrac.data.tasks import Loss, Task

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from pandas import DataFrame
    from torch import Tensor
    from torch.utils.data import Dataset

    # A pair (x, y), a map-style data set of such pairs, or a table with a column to predict.
    Examples: TypeAlias = tuple[Tensor | ArrayLike, Tensor | ArrayLike] | Dataset[Any] | DataFrame


def gather(
    clients: "Sequence[Examples]",
    test: "Examples | None" = None,
    target: str | Sequence[str] | None = None,
    task: str | Task | None = None,
    loss: str | Loss | None = None,
) -> Data:
    """All examples, those of ``clients[i]`` in the group i, under no key: they are in this process alone.

    Args:
        clients, test, target, task, loss: as `fedrac.fit` takes them.

    Raises:
        ValueError: no clients, one without examples, or examples that do not fit the task or one another; the message
            names the client.
    """
    if len(clients) == 0:
        raise ValueError("clients=[] is empty: give one pair (x, y), data set or DataFrame for each client")
    given = {f"clients[{i}]": part for i, part in enumerate(clients)} | ({} if test is None else {"test": test})
    parts = {name: _part(part, name, target) for name, part in given.items()}
    _check_inputs(parts)
    meant = _task(parts, task, loss)
    parts = {name: (x, targets_of(y, name, meant), None) for name, (x, y, _) in parts.items()}
    _check_targets(parts)
    tested = parts.pop("test", None)
    train = _joined(list(parts.values()))
    return joined(train, tested or (train[0][:0], train[1][:0], None), "", meant)


def _part(part: Any, name: str, target: str | Sequence[str] | None) -> Arrays:
    try:
        inputs, targets, groups = arrays(part, name, target)
    except ValueError as error:
        raise error if name in str(error) else ValueError(f"{name}: {error}") from error
    if groups is not None:
        raise ValueError(f"{name} is a triple: give a pair (x, y)")
    if len(inputs) != len(targets):
        raise ValueError(f"{name} has {len(inputs)} inputs and {len(targets)} targets: one target for each input")
    if not len(inputs):
        raise ValueError(f"{name} has no examples: leave it out")
    return inputs, targets, None


def _check_inputs(parts: Mapping[str, Arrays]) -> None:
    first = parts["clients[0]"][0]
    for name, (inputs, *_) in parts.items():
        if (inputs.shape[1:], inputs.dtype) != (first.shape[1:], first.dtype):
            raise ValueError(
                f"an input of {name} has shape {inputs.shape[1:]} and is {inputs.dtype}, one of clients[0] has "
                f"{first.shape[1:]} and is {first.dtype}: prepare all alike"
            )


def _task(parts: Mapping[str, Arrays], task: str | Task | None, loss: str | Loss | None) -> Task:
    """What the targets mean; all together say it, as one client may have too few kinds of them."""
    targets = {name: y for name, (_, y, _) in parts.items()}
    kinds = {name: "floating-point" if y.dtype.kind == "f" else "integer" for name, y in targets.items()}
    for name, kind in kinds.items():
        if task is None and kind != kinds["clients[0]"]:
            raise ValueError(
                f"{name} has {kind} targets, clients[0] {kinds['clients[0]']} ones: give all of them integer labels (a "
                "classification) or all floating-point targets (a regression)"
            )
    meant = tasks.named(task or task_of(targets))
    return meant if loss is None else tasks.with_loss(meant, loss)


def _check_targets(parts: Mapping[str, Arrays]) -> None:
    first = parts["clients[0]"][1]
    for name, (_, targets, _) in parts.items():
        if targets.shape[1:] != first.shape[1:]:
            shapes = f"{targets.shape[1:]}, one of clients[0] {first.shape[1:]}"
            raise ValueError(f"a target of {name} has shape {shapes}: prepare all alike")


def _joined(parts: Sequence[Arrays]) -> Arrays:
    inputs, targets = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
    return inputs, targets, np.repeat(np.arange(len(parts)), [len(x) for x, *_ in parts])
