"""Clients of different rank: one of rank r_c trains the first r_c columns of the round's sketch, and sends no more.

All clients of a round share the sketch. So their factors are parts of one matrix: a client has the first r_c rows of A
or of a core, and the first r_c columns of B. What it does not train is zero in its factor.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


def axis_of(letter: str) -> int:
    """Along which axis a factor has the rank: ``A`` and ``Z`` along their rows, ``B`` along its columns."""
    return -1 if letter == "B" else -2


def trained_part(letter: str, shape: Sequence[int], ranks: Sequence[int]) -> Tensor:
    """Which entries of a factor (..., r, n) or (..., m, r) clients of these ranks (C,) train.

    Returns:
        (C, ..., r, 1) or (C, ..., 1, r) bool.
    """
    places, axis = [1] * len(shape), axis_of(letter)
    places[axis] = shape[axis]
    kept = torch.arange(shape[axis]) < torch.tensor(list(ranks)).unsqueeze(-1)
    return kept.view(len(ranks), *places)


def trained_parts(shapes: Shapes, ranks: Sequence[int]) -> dict[str, Tensor]:
    """`trained_part` by `Block.key` of every factor; a parameter that is trained in full (``D``) has no rank."""
    letters = {key: key.rpartition(":")[2] for key in shapes}
    return {key: trained_part(letters[key], shape, ranks) for key, shape in shapes.items() if letters[key] != "D"}


def shapes_of_rank(shapes: Shapes, rank: int | None) -> dict[str, tuple[int, ...]]:
    """By `Block.key`, the shape of what a client of this rank trains of each factor; None: all of it."""
    return {key: shape if rank is None else _narrow(key, shape, rank) for key, shape in shapes.items()}


def _narrow(key: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    if (letter := key.rpartition(":")[2]) == "D":
        return shape
    found = list(shape)
    found[axis_of(letter)] = min(rank, shape[axis_of(letter)])
    return tuple(found)
