"""HetLoRA (arXiv 2401.06432): clients of different rank, and a mean in which those count who have learned most."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.client_ranks import trained_part
from fedrac.algorithm.means import Cohort, average
from fedrac.algorithm.pair_mean import PairMean


@dataclass(frozen=True)
class HetLoRA(PairMean):
    """Sparsity-weighted aggregation: factors are filled up with zeros, and a client counts by ``|B_c A_c|_F``.

    What a round starts from, a client cuts off at its rank. Each layer has weights of its own; where nobody has learned
    anything, all count alike.

    With ``decay`` below 1 clients prune their ranks. The tail of a client of rank r are the columns of B and rows of A
    from ``decay * r`` (rounded down, at least 1) to r. A client's objective has ``penalty * |B_tail|_F |A_tail|_F``,
    summed over layers; and where this product is smaller at the end of a round than at its start, the tail is dropped
    before the mean, and the client's rank is what is left, in all later rounds.

    Attributes:
        penalty: lambda of the paper, how strongly tails are held down; 0: not at all.
        decay: gamma of the paper, in (0, 1]; 1: no rank changes.
    """

    penalty: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise ValueError(f"method.decay={self.decay} must lie in (0, 1]: what is left of a rank; 1: all")
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"method.penalty={self.penalty} must not be negative, nor infinite")
        if self.penalty and self.decay == 1:
            raise ValueError(f"method.penalty={self.penalty} is on what method.decay cuts off: set it below 1")
        if self.decay < 1 and not self.has_ranks:
            raise ValueError(f"method.decay={self.decay} needs ranks of clients: set method.ranks")

    def of_pair(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Mapping[str, Tensor]:
        """By ``|B_c A_c|_F``, layer by layer."""
        norms = torch.linalg.matrix_norm(factors["B"].double() @ factors["A"].double())
        norms = norms.reshape(len(norms), -1).square().sum(1).sqrt()  # of a stack of matrices, all of them
        total = float(norms.sum())
        weights = np.asarray(norms / total) if total > 0 else cohort.shares
        return {letter: average(each, weights) for letter, each in factors.items()}

    def local_gradient(self, factors: Mapping[str, Tensor], ranks: Sequence[int] | None) -> dict[str, Tensor]:
        """Of ``penalty * |B_tail| |A_tail|``: ``penalty * |B_tail| A_tail / |A_tail|`` for A, and likewise for B."""
        if not self.penalty or ranks is None or factors.keys() != {"A", "B"}:
            return {}
        tails = {x: self._tail(x, each, ranks) for x, each in factors.items()}
        norms = {x: _norms(tail) for x, tail in tails.items()}
        found = {}
        for letter, other in (("A", "B"), ("B", "A")):
            least = torch.finfo(norms[letter].dtype).tiny
            size = self.penalty * norms[other] / norms[letter].clamp_min(least)
            found[letter] = tails[letter] * size.view(-1, *[1] * (tails[letter].ndim - 1))
        return found

    def ranks_after(self, ranks: Sequence[int], start: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[int]:
        """Without the tail, where that has become smaller."""
        if self.decay == 1:
            return list(ranks)
        before = self._sizes({key: value.expand(len(ranks), *value.shape) for key, value in start.items()}, ranks)
        after = self._sizes({key: found[key] for key in start}, ranks)
        return [self._kept(rank) if bool(less) else rank for rank, less in zip(ranks, after < before, strict=True)]

    def _kept(self, rank: int) -> int:
        return max(int(self.decay * rank), 1)

    def _tail(self, letter: str, factor: Tensor, ranks: Sequence[int]) -> Tensor:
        """Of a factor (C, ...), with zeros elsewhere."""
        whole, kept = (trained_part(letter, factor.shape[1:], each) for each in (ranks, [*map(self._kept, ranks)]))
        return factor * (whole & ~kept).to(factor.device)

    def _sizes(self, factors: Mapping[str, Tensor], ranks: Sequence[int]) -> Tensor:
        """``|B_tail| |A_tail|`` summed over layers, (C,)."""
        total = torch.zeros(len(ranks), dtype=torch.float64)
        for name in sorted({key.rpartition(":")[0] for key in factors}):
            a, b = (_norms(self._tail(x, factors[f"{name}:{x}"].double(), ranks)) for x in "AB")
            total += a * b
        return total


def _norms(factor: Tensor) -> Tensor:
    """Frobenius norms (C,) of a factor (C, ...)."""
    return factor.flatten(1).square().sum(1).sqrt()
