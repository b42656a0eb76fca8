"""One table of examples from those of the clients, each in the form that its owner has it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedrac.data import Data
from fedrac.data.coerce import Arrays, arrays, joined, targets_of, task_of
from fedrac.data.tasks import Task, named

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
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
) -> Data:
    """All examples, those of ``clients[i]`` in the group i, under no key: they are in this process alone.

    Args:
        clients, test, target, task: as `fedrac.fit` takes them.

    Raises:
        ValueError: no clients, one without examples, or examples that do not fit the model's task or one another; the
            message names the client.
    """
    if len(clients) == 0:
        raise ValueError("clients=[] is empty: give one pair (x, y), data set or DataFrame for each client")
    named_parts = {f"clients[{i}]": part for i, part in enumerate(clients)} | ({} if test is None else {"test": test})
    found = {name: _part(part, name, target) for name, part in named_parts.items()}
    first = found["clients[0]"]
    for name, (inputs, _, _) in found.items():
        if not len(inputs) and name != "test":
            raise ValueError(f"{name} has no examples: leave it out")
    for name, part in found.items():
        _check_alike(part, name, first, any_kind=task is not None)
    meant = named(task or task_of({name: targets for name, (_, targets, _) in found.items()}))
    parts = [(x, targets_of(y, name, meant), None) for name, (x, y, _) in found.items()]
    for name, (_, targets, _) in zip(found, parts, strict=True):
        if targets.shape[1:] != parts[0][1].shape[1:]:
            shapes = f"{targets.shape[1:]}, one of clients[0] {parts[0][1].shape[1:]}"
            raise ValueError(f"a target of {name} has shape {shapes}: prepare all alike")
    trained = parts[: len(clients)]
    groups = np.repeat(np.arange(len(trained)), [len(inputs) for inputs, *_ in trained])
    train: Arrays = np.concatenate([x for x, *_ in trained]), np.concatenate([y for _, y, _ in trained]), groups
    tested: Arrays = (train[0][:0], train[1][:0], None) if test is None else parts[-1]
    return joined(train, tested, "", meant)


def _part(part: Any, name: str, target: str | Sequence[str] | None) -> Arrays:
    try:
        inputs, targets, groups = arrays(part, name, target)
    except ValueError as error:
        raise error if name in str(error) else ValueError(f"{name}: {error}") from error
    if groups is not None:
        raise ValueError(f"{name} is a triple: give a pair (x, y)")
    if len(inputs) != len(targets):
        raise ValueError(f"{name} has {len(inputs)} inputs and {len(targets)} targets: one target for each input")
    return inputs, targets, None


def _check_alike(part: Arrays, name: str, first: Arrays, any_kind: bool) -> None:
    (inputs, targets, _), (other, expected, _) = part, first
    if inputs.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"an input of {name} has shape {inputs.shape[1:]}, one of clients[0] {other.shape[1:]}: prepare all alike"
        )
    if inputs.dtype != other.dtype:
        raise ValueError(f"the inputs of {name} are {inputs.dtype}, those of clients[0] {other.dtype}: make all alike")
    if not any_kind and _kind(targets) != _kind(expected):
        raise ValueError(
            f"{name} has {_kind(targets)}, clients[0] {_kind(expected)}: give all of them integer labels "
            "(a classification) or all floating-point targets (a regression)"
        )


def _kind(targets: "NDArray[Any]") -> str:
    return "floating-point targets" if targets.dtype.kind == "f" else "integer labels"
