"""q-FFL (arXiv 1905.10497): clients for which the model is worse count more, so that they lie less far apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.means import Cohort, average
from fedrac.algorithm.method import Method, Train


@dataclass(frozen=True)
class QFedAvg(Method):
    """q-FedAvg: from x to ``x + sum_c L F_c^q (x_c - x) / sum_c h_c``.

    Here is ``h_c = q F_c^(q-1) |L (x_c - x)|^2 + L F_c^q``, and F_c the client's loss. The paper takes that at x; here
    it is the mean of the round, which every client sends anyway. But for it, all clients of a cohort count alike.

    Attributes:
        q: how much fairness: 0 is FedAvg.
        step_size: 1 / L; the paper takes the clients' learning rate.
    """

    train: Train = "full"
    q: float = 1.0
    step_size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.q >= 0 and self.step_size > 0):
            raise ValueError(
                f"method.q={self.q} must not be negative, and method.step_size={self.step_size} be positive"
            )
        if self.train == "both" or self.has_ranks or self.personal:
            raise ValueError(f"{self.name}: its mean is of one update: set method.train=full or factor, and no ranks")

    def mean(self, factors: Mapping[str, Tensor], cohort: Cohort) -> dict[str, Tensor]:
        """By the clients' losses, and by how far they went."""
        losses, bound = np.maximum(cohort.losses, 1e-10), 1 / self.step_size
        power = losses**self.q
        slope = self.q * losses ** (self.q - 1) if self.q else np.zeros_like(losses)
        assert cohort.lengths is not None
        total = float((slope * bound**2 * cohort.lengths + bound * power).sum())
        weights = bound * power / total
        found = {}
        for letter, each in factors.items():
            start = cohort.start.get(letter, torch.zeros(each.shape[1:])).double()
            found[letter] = start + average(each.double() - start, weights)
        return found
