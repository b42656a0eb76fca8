"""Methods of one's own, as a module outside the package has them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedrac.algorithm.means import Cohort
from fedrac.algorithm.method import Method, RoundMethod


@dataclass(frozen=True)
class Own(Method):
    """Two rounds left, one right; a mean without each entry's largest and smallest value; a server with inertia."""

    name: str = "Own"
    inertia: float = 0.5
    period = 3

    def at(self, round_: int) -> RoundMethod:
        return replace(super().at(round_), side="left" if round_ % 3 else "right")

    def mean(self, factors: Mapping[str, Tensor], cohort: Cohort) -> dict[str, Tensor]:
        cut = 1 if len(cohort.shares) > 2 else 0
        return {x: each.double().sort(0).values[cut : len(each) - cut].mean(0) for x, each in factors.items()}

    def step(self, key: str, update: Tensor, moments: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        moved = update + self.inertia * moments.get(f"{key}/last", torch.zeros_like(update))
        return moved, {f"{key}/last": moved}


@dataclass(frozen=True)
class Returns(Method):
    """Returns what a test gives it."""

    what: Any = None
    of: str = "mean"

    def at(self, round_: int) -> Any:
        return self.what if self.of == "at" and round_ > 1 else super().at(round_)

    def mean(self, factors: Mapping[str, Tensor], cohort: Cohort) -> Any:
        return self.what if self.of == "mean" else super().mean(factors, cohort)

    def step(self, key: str, update: Tensor, moments: Mapping[str, Tensor]) -> Any:
        return self.what if self.of == "step" else super().step(key, update, moments)
