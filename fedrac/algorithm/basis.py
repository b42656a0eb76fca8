"""Bases for the right side of a two-sided update: k0 orthonormal rows that are fixed for the run.

Gradients of a layer lie in the span of its inputs, ``G = sum delta x^T``. Where the inputs are nearly of rank k, their
main directions lose little of it, and a core of p k numbers does what a factor of p n does.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.sketch import orthonormal
from fedrac.algorithm.streams import Stream, uniform


def of_moment(moment: Tensor, count: int) -> Tensor:
    """The ``count`` main directions of inputs x (n), from ``sum x x^T`` (n, n): (count, n) float64."""
    vectors = torch.linalg.eigh(moment.double()).eigenvectors
    return signed(vectors.flip(1)[:, :count].T)


def cosine(n: int, count: int) -> Tensor:
    """The ``count`` lowest frequencies of the cosine transform (DCT-II) of n numbers, (count, n) float64.

    Where n is a square number they are taken for the pixels of an image, and the frequencies are those of the plane.
    """
    side = math.isqrt(n)
    if side * side != n:
        return _cosines(n)[:count]
    waves, order = _cosines(side), np.add.outer(np.arange(side) ** 2, np.arange(side) ** 2).reshape(-1)
    lowest = torch.from_numpy(order.argsort(kind="stable")[:count])
    return torch.einsum("ai,bj->abij", waves, waves).reshape(n, n)[lowest]


def random(seed: int, name: str, n: int, count: int) -> Tensor:
    """Rows of a uniformly random orthonormal system, (count, n) float64, from the stream ``basis/name``."""
    normal = torch.special.ndtri(torch.from_numpy(uniform(Stream(seed, "basis", name).words(count * n))))
    return orthonormal(normal.reshape(count, n).T).T


def of_weight(weight: Tensor, rank: int, count: int) -> tuple[Tensor, Tensor]:
    """The main singular vectors of a weight (m, n): L (m, rank), its columns sqrt(m) long, and R (count, n), float64.

    They are those of LoRA-XS (arXiv 2405.17604).
    """
    u, _, vt = torch.linalg.svd(weight.double())
    return signed(u[:, :rank].T).T * math.sqrt(len(weight)), signed(vt[:count])


def _cosines(n: int) -> Tensor:
    """(n, n): the DCT-II, orthonormal."""
    place, frequency = torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)
    waves = torch.cos(math.pi / n * (place + 0.5) * frequency.unsqueeze(1)) * math.sqrt(2 / n)
    waves[0] /= math.sqrt(2)
    return waves


def signed(rows: Tensor) -> Tensor:
    """With the largest entry of every row positive: singular vectors have no sign of their own."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign()
