"""What a round makes of its clients' factors, before the server steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrac.algorithm.client_ranks import trained_part

Shares = NDArray[np.float64]

_ENTRIES = 2**17  # numbers that are added up at once


@dataclass(frozen=True)
class Cohort:
    """The clients whose factors are averaged, in order of their ids.

    Attributes:
        shares: (C,), what each counts, summing to 1.
        clients: ids, (C,).
        losses: mean training losses of the round, (C,).
        ranks: of each client, (C,), where they differ; None: all have trained whole factors.
        lengths: squared length of how far each client went, over all that it sends, (C,); for means of a method's own.
        start: by letter, the factors that the round started from, (...), where they are carried on.
    """

    shares: Shares
    clients: Sequence[int] = ()
    losses: Sequence[float] = ()
    ranks: Sequence[int] | None = None
    lengths: Shares | None = None
    start: Mapping[str, Tensor] = field(default_factory=dict)


def average(stacked: Tensor, weights: Shares) -> Tensor:
    """Weighted sum over the first axis (C, ...), in float64, one client after another: never in another order."""
    rows = stacked.numpy().reshape(len(weights), -1)
    total = np.empty(rows.shape[1])
    for some in _columns(rows):
        add_rows(np.multiply(weights[:, None], rows[:, some], dtype=np.float64), total[some])
    return torch.from_numpy(total.reshape(stacked.shape[1:]))


def _columns(rows: NDArray[Any]) -> list[slice]:
    """Some columns each, so that what is added up stays in a core's cache."""
    step = max(_ENTRIES // len(rows), 1)
    return [slice(start, start + step) for start in range(0, rows.shape[1], step)]


def add_rows(rows: NDArray[Any], total: NDArray[Any]) -> None:
    """The sum of rows (C, n) into ``total`` (n,), one after another from zero, in their dtype.

    So does NumPy along an axis that is not the fast one in memory; a single column, which is, it would add by halves.
    """
    if rows.shape[1] == 1:
        total[:] = 0.0 + np.add.accumulate(rows)[-1]
    else:
        np.add.reduce(rows, 0, initial=0.0, out=total)


def mean_of(letter: str, stacked: Tensor, cohort: Cohort) -> Tensor:
    """The mean of a factor (C, ...), in float64. Where clients differ in rank, a column's is over those who trained it.

    A column that nobody trained stays as it was when the round started.
    """
    if cohort.ranks is None or letter == "D":
        return average(stacked, cohort.shares)
    part = trained_part(letter, stacked.shape[1:], cohort.ranks)
    total = average(stacked, cohort.shares)  # what is not trained is zero
    trained = average(part, cohort.shares)
    start = cohort.start.get(letter, torch.zeros(()))
    return torch.where(trained > 0, total / trained.clamp_min(torch.finfo(torch.float64).tiny), start.double())


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
