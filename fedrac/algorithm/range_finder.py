"""A basis for two-sided sketches that clients find together: the rows in which their gradients lie.

It takes one round, number 0, before all others. The sketch Omega (m, r) is on the left, every client makes one step of
size 1 along its whole gradient G_c, and so sends ``-s Omega^T G_c`` (r, n). Their mean is ``-s Omega^T G`` of the mean
gradient G, whose main row directions it has: the range finder of Halko, Martinsson and Tropp (arXiv 0909.4061). It is
linear in the gradients, so bounds, noise and sums under masks do to it what they do to any update.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedrac.algorithm import basis
from fedrac.algorithm.blocks import Block
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.sketch import completed

ROUND = 0
_MORE = 8  # columns of Omega than rows that are wanted: the last directions are found less well
_LEAST = 1e-6  # of the largest singular value: what is smaller is rounding


@dataclass(frozen=True)
class RangeFinder(Method):
    """The method of round 0; its factors are no update, and are not merged."""

    name: str = "Range finder"
    fresh: bool = False
    merge: bool = False

    def at(self, round_: int) -> RoundMethod:
        """The sketch is that of round 0, which no other round has."""
        return RoundMethod(self, "factor", "left", ROUND)


def blocks_of(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """What is trained in round 0, for all blocks whose R has fixed rows."""
    return tuple(
        replace(block, rank=min(block.fixed + _MORE, block.m), scale=1.0, columns=None, fixed=0, only=None)
        for block in blocks
        if block.fixed
    )


def rows_of(block: Block, found: Tensor, seed: int) -> Tensor:
    """The main directions of what the clients have sent, (k0, n) float64 orthonormal, or a stack of these.

    Args:
        block: has k0 fixed rows.
        found: the mean factor of round 0, (r, n), or a stack of them. Where it has fewer than k0 directions, random
            ones in their complement are the rest.
        seed: of the run, for the latter.
    """
    parts = found.double().reshape(-1, *found.shape[-2:])
    rows = [_main(each, block.fixed, seed, name) for each, name in zip(parts, block.parts, strict=True)]
    return rows[0] if block.stack is None else torch.stack(rows)


def _main(found: Tensor, count: int, seed: int, name: str) -> Tensor:
    _, sizes, directions = torch.linalg.svd(found, full_matrices=False)
    good = int((sizes > _LEAST * sizes[0]).sum()) if sizes[0] > 0 else 0
    rows = basis.signed(directions[: min(good, count)])
    return rows if len(rows) == count else completed(rows, basis.random(seed, name, found.shape[1], count - len(rows)))
