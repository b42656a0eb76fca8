"""HetLoRA (arXiv 2401.06432): clients of different rank, and a mean in which those count who have learned most."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.means import Cohort, average
from fedrac.algorithm.pair_mean import PairMean


@dataclass(frozen=True)
class HetLoRA(PairMean):
    """Sparsity-weighted aggregation: factors are filled up with zeros, and a client counts by ``|B_c A_c|_F``.

    What a round starts from, a client cuts off at its rank. Each layer has weights of its own; where nobody has learned
    anything, all count alike. Without the paper's pruning, by which a client lowers its rank.
    """

    def of_pair(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Mapping[str, Tensor]:
        """By ``|B_c A_c|_F``, layer by layer."""
        norms = torch.linalg.matrix_norm(factors["B"].double() @ factors["A"].double())
        norms = norms.reshape(len(norms), -1).square().sum(1).sqrt()  # of a stack of matrices, all of them
        total = float(norms.sum())
        weights = np.asarray(norms / total) if total > 0 else cohort.shares
        return {letter: average(each, weights) for letter, each in factors.items()}
