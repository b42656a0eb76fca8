"""What a round makes of its clients' factors, before the server steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Cohort:
    """The clients whose factors are averaged, in order of their ids.

    Attributes:
        shares: (C,), what each counts, summing to 1.
        clients: ids, (C,).
        losses: mean training losses of the round, (C,).
    """

    shares: Shares
    clients: Sequence[int] = ()
    losses: Sequence[float] = ()


def average(stacked: Tensor, weights: Shares) -> Tensor:
    """Weighted sum over the first axis (C, ...), in float64, one client after another: never in another order."""
    total = np.zeros(stacked.shape[1:], dtype=np.float64)
    for weight, factor in zip(weights, stacked, strict=True):
        total += weight * factor.double().numpy()
    return torch.from_numpy(total)


def mean_of_products(factors: Mapping[str, Tensor], weights: Shares) -> Tensor:
    """``sum_c w_c B_c A_c`` (..., m, n) in float64: one product of the clients' factors side by side.

    Args:
        factors: A (C, ..., r, n) and B (C, ..., m, r) by letter.
        weights: (C,).
    """
    a, b = factors["A"].double(), factors["B"].double()
    scaled = b * torch.from_numpy(weights).view(-1, *[1] * (b.ndim - 1))
    wide = scaled.movedim(0, -2)
    return wide.reshape(*wide.shape[:-2], -1) @ a.movedim(0, -3).reshape(*a.shape[1:-2], -1, a.shape[-1])
