"""FlexLoRA (arXiv 2402.11505): clients of different rank, whose products are averaged and taken apart again."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrac.algorithm.means import Cohort, mean_of_products
from fedrac.algorithm.pair_mean import PairMean


@dataclass(frozen=True)
class FlexLoRA(PairMean):
    """Of the mean of the products ``B_c A_c`` the first r singular values and vectors, ``U S V``: B = U S, A = V.

    A client starts from the first r_c of them, the best approximation of its rank. What is beyond the layer's rank r is
    lost, in the model that is tested, too.
    """

    def of_pair(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Mapping[str, Tensor]:
        """The first r singular values and vectors of the mean product."""
        rank = factors["A"].shape[-2]
        u, s, v = torch.linalg.svd(mean_of_products(factors, cohort.shares), full_matrices=False)
        return {"A": v[..., :rank, :], "B": u[..., :rank] * s[..., None, :rank]}
