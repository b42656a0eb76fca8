"""Clients' updates as vectors: what it means that one is large, or far from another."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.method import RoundMethod
from fedrac.algorithm.round_start import start_of_round


class UpdateVectors:
    """One vector for all that a client trained, measured from where the round started.

    Where one factor or the whole matrix is trained, a vector's length is the Frobenius norm of the client's change of
    the weights, over all blocks: ``|s B_S A| = |s (B_S^T B_S)^(1/2) A|``. So neither the scale nor the basis of the
    sketch matters, nor ``alpha``. Where both factors are trained, the product says nothing about each of them, and the
    vector is the change of the factors themselves.

    Args:
        blocks: what is trained.
        method: what it does in this round.
        sketches: by `Block.name`, those of the round.
        carried: by `Block.key`, the factors that the round started from, for methods that do not merge.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        method: RoundMethod,
        sketches: Mapping[str, Tensor],
        carried: Mapping[str, Tensor],
    ) -> None:
        start = start_of_round(blocks, method, sketches, carried, torch.float64, precondition=False)
        self._start = dict(sorted(start.trained.items()))
        one_factor = method.train == "factor"
        adapted = [b for b in blocks if b.rank is not None] if one_factor else []
        self._roots = {
            b.key(x): b.scale * _root(sketches[b.name], left=x == "A")
            for b in adapted
            for x in method.trained_letters(full=False)
        }
        self._left = method.side == "left"

    def rows(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """``stacked`` (by `Block.key`, (C, ...)) as (C, d) float64."""
        parts = [self._times(key, factor.double() - self._start[key], False) for key, factor in _sorted(stacked)]
        return torch.cat([part.flatten(1) for part in parts], 1)

    def factors(self, row: Tensor) -> dict[str, Tensor]:
        """The inverse: factors by `Block.key` of one vector (d,). Directions that no weight feels come back as 0."""
        parts = torch.split(row, [first.numel() for first in self._start.values()])
        found = zip(self._start.items(), parts, strict=True)
        return {key: first + self._times(key, part.reshape(first.shape), True) for (key, first), part in found}

    def _times(self, key: str, factor: Tensor, inverse: bool) -> Tensor:
        if key not in self._roots:
            return factor
        root = torch.linalg.pinv(self._roots[key], hermitian=True) if inverse else self._roots[key]
        return root @ factor if self._left else factor @ root


def _sorted(stacked: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(stacked.items())


def _root(sketch: Tensor, left: bool) -> Tensor:
    """The symmetric root of the Gram matrix, (..., r, r): of ``B^T B`` (left) or ``A A^T``; also where rank is lost."""
    narrow = sketch.double() if left else sketch.double().mT
    _, singular, basis = torch.linalg.svd(narrow, full_matrices=False)
    root: Tensor = basis.mT @ (singular.unsqueeze(-1) * basis)
    return root
