"""A quadratic as a least-squares problem: the counterexample of section 3 of arXiv 2410.08305."""

from collections.abc import Sequence

import numpy as np

from fedrac.data.examples import Data, Examples
from fedrac.data.store import stored


def quadratic(curvature: Sequence[float], slope: float = 1.0, size: int = 3) -> Data:
    """Examples whose mean loss is ``1/2 x^T M x - b^T x`` up to a constant that makes its minimum 0.

    ``x`` holds a matrix W (size, size) row by row, ``M = Diag(curvature)``, ``b = slope * (1, ..., 1)``. Example j is
    column j of W: its input is the unit vector ``e_j`` and the scales of `fedrac.models.scaled_linear`, its target the
    scaled minimiser, so that half the squared errors add up to the quadratic.

    Args:
        curvature: (size * size,) positive, the diagonal of M.
        slope: every entry of b.
        size: of W.

    Returns:
        ``size`` examples, which are also the test part.

    Raises:
        ValueError: another number of curvatures, or one that is not positive.
    """
    if len(curvature) != size * size or not all(value > 0 for value in curvature):
        raise ValueError(f"data.curvature={list(curvature)}: give {size * size} positive numbers, for data.size={size}")

    def build() -> tuple[Examples, Examples, int]:
        diagonal = np.asarray(curvature, np.float64).reshape(size, size)
        scales = np.sqrt(size * diagonal).T.astype(np.float32)  # row j: column j of W
        targets = (scales * (slope / diagonal).T).astype(np.float32)
        examples = Examples(np.hstack([np.eye(size, dtype=np.float32), scales]), targets)
        return examples, examples, size

    return stored("quadratic", {"curvature": list(curvature), "slope": slope, "size": size}, "regression", build)
