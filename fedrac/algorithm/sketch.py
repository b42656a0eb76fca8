"""The frozen factor of a round: its laws, its digest, its Gram matrix.

Section 4 of arXiv 2410.08305: a left sketch is ``B_S`` (m x r), the update is ``s B_S A`` and its columns lie in
the span of ``B_S``; a right sketch is ``A_S`` (r x n), the update is ``s B A_S``. Clients rebuild the sketch from
the run's seed, the round and the parameter's name; it never crosses the network. For every law here
``E[H] = (E[rank]/m) I`` (left; n instead of m for right), which is Assumption 5.1.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrac.algorithm.streams import Stream, Words, uniform

_SMALL, _DRAWS = 24, 20_000

Side = Literal["left", "right"]
Law = Literal["popcount", "gaussian", "rademacher", "haar", "scaled_haar", "coordinate"]


@dataclass(frozen=True)
class SketchSpec:
    """What every client needs to rebuild the sketches of a run.

    Attributes:
        law: distribution of the entries. ``popcount`` (nearly Gaussian) and ``rademacher`` are equal to the last
            bit on every machine; ``gaussian`` is rounded to float32 and equal but for rare last bits of a math
            library; ``haar`` has orthonormal columns (left) or rows (right), ``scaled_haar`` has them as long as
            those of ``gaussian`` are in the mean; ``coordinate`` picks r distinct unit vectors.
        seed: the run's seed.

    Raises:
        ValueError: the law is none of those.
    """

    law: Law = "popcount"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.law not in get_args(Law):
            raise ValueError(f"sketch law {self.law!r} is unknown: choose one of {', '.join(get_args(Law))}")

    def raw(self, side: Side, round_: int, name: str, m: int, n: int, rank: int) -> Tensor:
        """Entries before orthonormalisation, float64: (m, rank) left, (rank, n) right. These have the digest."""
        stream = Stream(self.seed, "sketch", round_, name)
        rows, columns = (m, rank) if side == "left" else (rank, n)
        if self.law == "coordinate":
            return _unit_vectors(stream, rows, columns, side)
        return torch.from_numpy(_entries(self.law, stream.words(rows * columns))).reshape(rows, columns)

    def finish(self, side: Side, raw: Tensor) -> Tensor:
        """The sketch, float64, (m, rank) left, (rank, n) right: ``raw``, made orthonormal where the law says so."""
        if self.law not in ("haar", "scaled_haar"):
            return raw
        found = orthonormal(raw) if side == "left" else orthonormal(raw.T).T
        return found if self.law == "haar" else found * max(raw.shape) ** 0.5

    def draw(self, side: Side, round_: int, name: str, m: int, n: int, rank: int) -> Tensor:
        """The frozen factor of ``round_`` for parameter ``name``, float64: (m, rank) left, (rank, n) right."""
        return self.finish(side, self.raw(side, round_, name, m, n, rank))


@lru_cache(maxsize=256)
def expected_rank(law: Law, length: int, rank: int) -> float:
    """``E[rank]`` of a sketch of ``rank`` vectors of ``length`` entries: ``E[H] = (E[rank] / length) I``.

    Entries of ``rademacher`` and ``popcount`` repeat, so that small sketches may lose rank: there it is the mean over
    20,000 draws, within 0.2 %. For vectors of more than 24 entries that is rarer than one draw in 10,000.
    """
    if law not in ("rademacher", "popcount") or length > _SMALL:
        return float(rank)
    words = Stream(0, "rank", law, length, rank).words(_DRAWS * length * rank)
    draws = torch.from_numpy(_entries(law, words)).reshape(_DRAWS, length, rank)
    return float(torch.linalg.matrix_rank(draws).double().mean())


def _entries(law: Law, words: Words) -> NDArray[np.float64]:
    if law == "rademacher":
        return 1.0 - 2.0 * (words >> np.uint64(63)).astype(np.float64)
    if law == "popcount":  # mean 0, variance 64/4/16 = 1, multiples of 1/4: exact in bf16, fp16 and fp32
        return (np.bitwise_count(words).astype(np.float64) - 32.0) / 4.0
    normal: NDArray[np.float64] = torch.special.ndtri(torch.from_numpy(uniform(words))).float().double().numpy()
    return normal


def _unit_vectors(stream: Stream, rows: int, columns: int, side: Side) -> Tensor:
    long, rank = (rows, columns) if side == "left" else (columns, rows)
    sketch = torch.zeros(long, rank, dtype=torch.float64)
    sketch[torch.from_numpy(stream.distinct(long, rank)), torch.arange(rank)] = 1.0
    return sketch if side == "left" else sketch.T.contiguous()


def orthonormal(b: Tensor) -> Tensor:
    """Orthonormal basis of the columns of ``b`` (m, r) by Cholesky-QR, float64.

    Unlike LAPACK's QR it has one answer up to rounding: no sign is free. The second pass restores the digits
    that the squared condition number of the Gram matrix costs the first.
    """
    for _ in range(2):
        b = torch.linalg.solve_triangular(torch.linalg.cholesky(b.T @ b), b.T, upper=False).T
    return b


def completed(fixed: Tensor, raw: Tensor) -> Tensor:
    """``fixed`` (k0, n), whose rows are orthonormal, over ``raw`` (k1, n) made orthonormal in its complement."""
    for _ in range(2):  # once more, for the digits that the first time leaves
        raw = orthonormal((raw - raw @ fixed.T @ fixed).T).T
    return torch.cat([fixed, raw])


def gram_inverse(sketch: Tensor, side: Side) -> Tensor:
    """``(B^T B)^+`` (left) or ``(A A^T)^+`` (right) of a sketch, or of each one of a stack, (..., r, r) float64.

    From the pseudo-inverse of the sketch itself: its condition number is not squared, and a sketch that lost rank
    (possible on tiny layers) still gives a projection.
    """
    pinv: Tensor = torch.linalg.pinv(sketch.double())
    return pinv @ pinv.mT if side == "left" else pinv.mT @ pinv


def projection(sketch: Tensor, side: Side) -> Tensor:
    """The orthogonal projection H of section 4 of the paper, float64: (m, m) left, (n, n) right."""
    sketch = sketch.double()
    pinv: Tensor = torch.linalg.pinv(sketch)
    return sketch @ pinv if side == "left" else pinv @ sketch


def digest(raws: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names and little-endian float64 bytes of the raw sketches (as `SketchSpec.raw`), by name."""
    sha = hashlib.sha256()
    for name in sorted(raws):
        sha.update(name.encode() + b"\0" + raws[name].contiguous().numpy().astype("<f8").tobytes())
    return sha.hexdigest()
