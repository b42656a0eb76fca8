"""Differential privacy of clients: the noise, and what it has cost so far.

The protected unit is a client: all data of one client may be replaced by any other data (the relation REPLACE_ONE), and
what the server sends out afterwards hardly changes. Rounds draw their cohorts uniformly, of fixed size, without
replacement, and secretly; that is what is accounted for (Renyi differential privacy of subsampled mechanisms: Wang,
Balle and Kasiviswanathan, 2019), by Google's ``dp-accounting``.
"""

import importlib.util
import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.state import Spent
from fedrac.algorithm.streams import Stream, uniform


def require() -> None:
    """Raises ValueError if the package that accounts for privacy is not there."""
    if importlib.util.find_spec("dp_accounting") is None:
        raise ValueError("guard.noise needs the package dp-accounting: pip install 'fedrac[privacy]'")


def new_secret() -> int:
    """A seed of 128 bits from the operating system."""
    return secrets.randbits(128)


def normal(secret: int, purpose: str, round_: int, count: int) -> Tensor:
    """(count,) standard normal numbers, float64, of a stream that only ``secret`` opens."""
    words = Stream(secret, purpose, round_).words(count)
    numbers: Tensor = torch.special.ndtri(torch.from_numpy(uniform(words)))
    return numbers


def spend(spent: Sequence[Spent], cohort: int, population: int, multipliers: Sequence[float]) -> tuple[Spent, ...]:
    """``spent`` and one more round, in which the cohort was told several things with these noise multipliers.

    Gaussian mechanisms on the same cohort are one, whose inverse multiplier is the root of the sum of squares.
    """
    new = Spent(cohort, population, 1.0 / math.hypot(*(1.0 / m for m in multipliers)), 1)
    if spent and replace(spent[-1], rounds=1) == new:
        return (*spent[:-1], replace(new, rounds=spent[-1].rounds + 1))
    return (*spent, new)


def epsilon(spent: Sequence[Spent], delta: float, rounds: int) -> float:
    """What ``rounds`` rounds have cost at ``delta``; infinite if some of them had no noise."""
    if sum(part.rounds for part in spent) < rounds:
        return math.inf
    from dp_accounting import rdp

    curves = [part.rounds * _curve(part.cohort, part.population, part.multiplier) for part in spent]
    return float(rdp.compute_epsilon(_orders(), np.sum(curves, axis=0), delta)[0])


def _accountant() -> Any:
    from dp_accounting import NeighboringRelation, rdp

    return rdp.RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)


def _orders() -> Any:
    return _accountant().orders


@lru_cache(maxsize=64)
def _curve(cohort: int, population: int, multiplier: float) -> Any:
    """Renyi divergence of one round, by order."""
    from dp_accounting import GaussianDpEvent, SampledWithoutReplacementDpEvent

    accountant = _accountant()
    accountant.compose(SampledWithoutReplacementDpEvent(population, cohort, GaussianDpEvent(multiplier)))
    return accountant.rdp
