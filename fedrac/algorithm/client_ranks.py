"""Clients of different rank: one of rank r_c trains the first r_c columns of a sketch, and sends no more.

All clients of a round share the sketch, so their factors are rows of the same matrix: A_c has its first r_c rows, B_c
its first r_c columns, a core its first r_c rows. What a client does not train is zero in its factor.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.method import RoundMethod


def trained_part(letter: str, shape: Sequence[int], ranks: Sequence[int]) -> Tensor:
    """Which entries of a factor of this shape clients of these ranks train: (C, ..., r, 1) or (C, ..., 1, r) bool.

    Args:
        letter: ``A`` and ``Z`` have the rank along their rows, ``B`` along its columns.
        shape: of the factor, (..., r, n) or (..., m, r).
        ranks: (C,).
    """
    axis = -1 if letter == "B" else -2
    places = [1] * len(shape)
    places[axis] = shape[axis]
    kept = torch.arange(shape[axis]) < torch.tensor(list(ranks)).unsqueeze(-1)
    return kept.view(len(ranks), *places)


def trained_parts(blocks: Sequence[Block], method: RoundMethod, ranks: Sequence[int]) -> dict[str, Tensor]:
    """`trained_part` by `Block.key` of every factor of low rank that a round trains."""
    found = {}
    for block in blocks if method.train != "full" else ():
        for letter in block.trained_letters(method):
            if letter != "D":
                found[block.key(letter)] = trained_part(letter, block.factor_shape(letter), ranks)
    return found


def whole_parts(shapes: Mapping[str, Sequence[int]], parts: Mapping[str, Tensor], clients: int) -> dict[str, Tensor]:
    """By key, (C, ...) bool: which entries of what a client uploads it has trained; all where nothing is said."""
    every = torch.ones(1, dtype=torch.bool)
    return {key: parts.get(key, every).expand(clients, *shape) for key, shape in shapes.items()}
