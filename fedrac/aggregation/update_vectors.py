"""Clients' updates as vectors: what it means that one is large, or far from another."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block, sent_shapes
from fedrac.algorithm.method import RoundMethod
from fedrac.algorithm.round_start import frozen_factor, start_of_round


class UpdateVectors:
    """One vector for all that a client trained, measured from where the round started.

    Where one factor or the whole matrix is trained, a vector's length is the Frobenius norm of the client's change of
    the weights, over all blocks: ``|s B_S A| = |s (B_S^T B_S)^(1/2) A|``, and likewise on both sides of a core. So
    neither the scale nor the basis of the sketch matters, nor ``alpha``. Where both factors are trained, the product
    says nothing about each of them, and the vector is the change of the factors themselves.

    Args:
        blocks: what is trained.
        method: what it does in this round.
        sketches: by `Block.sketch_key`, those of the round.
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
        sent = sent_shapes(blocks, method)
        self._start = {key: value for key, value in sorted(start.trained.items()) if key in sent}
        self._left: dict[str, Tensor] = {}
        self._right: dict[str, Tensor] = {}
        for block in blocks if method.train == "factor" else ():
            scale = block.scale
            for letter in sorted(block.drawn_letters(method), reverse=True):  # B first: it takes the scale
                root = scale * _root(frozen_factor(block, letter, sketches, carried), left=letter == "B")
                scale, roots = 1.0, self._left if letter == "B" else self._right
                roots[block.key(block.trained_letters(method)[0])] = root

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
        left, right = (
            torch.linalg.pinv(roots[key], hermitian=True) if inverse and key in roots else roots.get(key)
            for roots in (self._left, self._right)
        )
        factor = factor if left is None else left @ factor
        return factor if right is None else factor @ right


def _sorted(stacked: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(stacked.items())


def _root(sketch: Tensor, left: bool) -> Tensor:
    """The symmetric root of the Gram matrix, (..., r, r): of ``B^T B`` (left) or ``A A^T``; also where rank is lost."""
    narrow = sketch.double() if left else sketch.double().mT
    _, singular, basis = torch.linalg.svd(narrow, full_matrices=False)
    root: Tensor = basis.mT @ (singular.unsqueeze(-1) * basis)
    return root
