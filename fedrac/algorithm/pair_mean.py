"""Methods that train A and B and carry both on, as FedAvg-LoRA does, with another mean of the two."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedrac.algorithm.means import Cohort
from fedrac.algorithm.method import Average, Method, Sides, Train


@dataclass(frozen=True)
class PairMean(Method):
    """FedAvg-LoRA, but for what becomes of the A and B of a layer; what is trained in full has its plain mean."""

    train: Train = "both"
    side: Sides = "right"
    fresh: bool = False
    merge: bool = False
    average: Average = "factors"

    def mean(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Mapping[str, Tensor]:
        """`of_pair` where there is one."""
        return self.of_pair(factors, cohort) if factors.keys() == {"A", "B"} else super().mean(factors, cohort)

    def of_pair(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Mapping[str, Tensor]:
        """The A (..., r, n) and B (..., m, r) that the next round starts from.

        Args:
            factors: those of the clients, (C, ...).
            cohort: the clients.
        """
        raise NotImplementedError
