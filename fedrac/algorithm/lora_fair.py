"""LoRA-FAIR (arXiv 2411.14961): the mean of the factors, corrected towards the mean of the products."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrac.algorithm.means import Cohort, mean_of, mean_of_products
from fedrac.algorithm.pair_mean import PairMean


@dataclass(frozen=True)
class LoRAFair(PairMean):
    """``B = B_bar + Delta`` with the Delta for which ``|M - (B_bar + Delta) A_bar|^2 + penalty |Delta|^2`` is least.

    M is the mean of the clients' products. The paper leaves open how near two matrices are; here it is the squared
    Frobenius norm, for which ``Delta = (M - B_bar A_bar) A_bar^T (A_bar A_bar^T + penalty I)^-1``. Clients go on from
    the corrected B and from A_bar.

    Attributes:
        penalty: how strongly B is held to the mean of the clients' B; the paper's lambda.
    """

    penalty: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.penalty > 0:
            raise ValueError(f"method.penalty={self.penalty} must be positive")

    def of_pair(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Mapping[str, Tensor]:
        """The means of A and of B, this one corrected."""
        means = {letter: mean_of(letter, each, cohort) for letter, each in factors.items()}
        a, b = means["A"], means["B"]
        missing = mean_of_products(factors, cohort.shares) - b @ a
        gram = a @ a.mT + self.penalty * torch.eye(a.shape[-2], dtype=a.dtype)
        means["B"] = b + torch.linalg.solve(gram, a @ missing.mT).mT
        return means
