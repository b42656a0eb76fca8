"""One table of examples from those of the clients, each in the form that its owner has it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedrac.data import Data
from fedrac.data.coerce import Arrays, arrays, joined

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from pandas import DataFrame
    from torch import Tensor
    from torch.utils.data import Dataset

    # A pair (x, y), a map-style data set of such pairs, or a table with a column to predict.
    Examples: TypeAlias = tuple[Tensor | ArrayLike, Tensor | ArrayLike] | Dataset[Any] | DataFrame

_KINDS = {1: "integer labels", 2: "floating-point targets"}


def gather(
    clients: "Sequence[Examples]", test: "Examples | None" = None, target: str | Sequence[str] | None = None
) -> Data:
    """All examples, those of ``clients[i]`` in the group i, under no key: they are in this process alone.

    Args:
        clients, test, target: as `fedrac.fit` takes them.

    Raises:
        ValueError: no clients, one without examples, or examples that do not fit the model's task or one another; the
            message names the client.
    """
    if len(clients) == 0:
        raise ValueError("clients=[] is empty: give one pair (x, y), data set or DataFrame for each client")
    parts = [_part(part, f"clients[{i}]", target) for i, part in enumerate(clients)]
    for i, part in enumerate(parts):
        if not len(part[0]):
            raise ValueError(f"clients[{i}] has no examples: leave it out")
        _check_alike(part, f"clients[{i}]", parts[0])
    groups = np.repeat(np.arange(len(parts)), [len(inputs) for inputs, *_ in parts])
    train: Arrays = np.concatenate([x for x, *_ in parts]), np.concatenate([y for _, y, _ in parts]), groups
    if test is None:
        return joined(train, (train[0][:0], train[1][:0], None), key="")
    tested = _part(test, "test", target)
    _check_alike(tested, "test", parts[0])
    return joined(train, tested, key="")


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


def _check_alike(part: Arrays, name: str, first: Arrays) -> None:
    (inputs, targets, _), (other, expected, _) = part, first
    if inputs.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"an input of {name} has shape {inputs.shape[1:]}, one of clients[0] {other.shape[1:]}: prepare all alike"
        )
    if targets.ndim != expected.ndim:
        raise ValueError(
            f"{name} has {_KINDS[targets.ndim]}, clients[0] {_KINDS[expected.ndim]}: give all of them integer labels "
            "(a classification) or all floating-point targets (a regression)"
        )
    if targets.shape[1:] != expected.shape[1:]:
        shapes = f"{targets.shape[1:]}, one of clients[0] {expected.shape[1:]}"
        raise ValueError(f"a target of {name} has shape {shapes}: prepare all alike")
