"""Means that a few hostile or broken clients cannot carry away.

Every function takes one row a client, (C, d) float64, all of them finite, and gives one row (d,). The rows can be
compared because all clients of a round share their sketch. They come in the order of client ids, whichever answered
first, and sums run in one fixed order, so that the number of threads does not matter either.
"""

from functools import reduce
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Mean = Literal["mean", "trimmed_mean", "median", "geometric_median", "krum"]

_ITERATIONS = 1000
_TOLERANCE = 1e-10


def check(mean: Mean, hostile: int, clients: int) -> None:
    """Whether ``clients`` rows are enough.

    Raises:
        ValueError: the mean is unknown, or means nothing with ``hostile`` of ``clients`` rows to be withstood.
    """
    if mean not in get_args(Mean):
        raise ValueError(f"guard.mean={mean!r} is unknown: choose one of {', '.join(get_args(Mean))}")
    least = {"trimmed_mean": 2 * hostile + 1, "krum": 2 * hostile + 3}.get(mean, 1)
    if clients < least:
        raise ValueError(
            f"guard.mean={mean} with guard.hostile={hostile} needs at least {least} clients in every round, and "
            f"{clients} may be all that answer (cohort.size x cohort.min_fraction): lower guard.hostile or raise these"
        )


def robust_mean(rows: Tensor, mean: Mean, hostile: int) -> Tensor:
    """The chosen mean of ``rows`` (C, d), (d,); ``hostile`` of them are withstood by `trimmed_mean` and `krum`.

    Raises:
        ValueError: there are too few rows.
    """
    check(mean, hostile, len(rows))
    if mean == "trimmed_mean":
        return trimmed_mean(rows, hostile)
    if mean == "median":
        return trimmed_mean(rows, (len(rows) - 1) // 2)
    if mean == "geometric_median":
        return geometric_median(rows)
    return krum(rows, hostile) if mean == "krum" else total(rows) / len(rows)


def total(rows: Tensor) -> Tensor:
    """The sum of the rows (C, d), one after another, (d,)."""
    found: Tensor = reduce(torch.add, rows)
    return found


def lengths(rows: Tensor) -> Tensor:
    """(C,) Euclidean lengths; infinite where a square is."""
    with np.errstate(over="ignore"):
        found: Tensor = torch.from_numpy(np.sqrt(np.square(rows.numpy()).sum(1)))
    return found


def trimmed_mean(rows: Tensor, trim: int) -> Tensor:
    """The mean of each coordinate without its ``trim`` smallest and ``trim`` largest values (Yin et al., 2018).

    With all but one or two values trimmed it is the median.
    """
    kept = rows.sort(0).values[trim : len(rows) - trim]
    return total(kept) / len(kept)


def geometric_median(rows: Tensor) -> Tensor:
    """The point with the least sum of distances to the rows, by Weiszfeld's iteration (Pillutla et al., 2022).

    It starts at the coordinate-wise median. Distances are kept above a tiny share of the median one, so that an
    iterate may lie on a row.
    """
    point = trimmed_mean(rows, (len(rows) - 1) // 2)
    for _ in range(_ITERATIONS):
        distances = lengths(rows - point)
        scale = distances.sort().values[(len(rows) - 1) // 2]
        if not scale > 0:  # most rows lie on the point
            return point
        weights = 1.0 / distances.clamp(min=_TOLERANCE * scale)
        after = total((weights / weights.sum()).unsqueeze(1) * rows)
        moved, point = lengths((after - point).unsqueeze(0)), after
        if moved <= _TOLERANCE * scale:
            break
    return point


def krum(rows: Tensor, hostile: int) -> Tensor:
    """The row that is nearest to its ``C - hostile - 2`` nearest neighbours (Blanchard et al., 2017).

    Nearest in the sum of squared distances; of equally near ones, the client with the smallest id.
    """
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = distances.sort(1).values[:, 1 : len(rows) - hostile - 1]
    return rows[int(nearest.sum(1).argmin())]
