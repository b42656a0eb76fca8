"""A common scale of columns: mean and deviation over all parties, from sums that nobody's rows can be seen in.

What a party adds to the sums are its number of rows, and for every column the sum of the values and of their squares.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedrac.aggregation import exact_words
from fedrac.loading.told import told

AGREED = "agreed"  # for `data.standardize`: the scale is to be found before the run


@dataclass(frozen=True)
class Scale:
    """Shift and scale of every column.

    Attributes:
        mean, deviation: (features,); a column that is constant has deviation 1.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, spec: Mapping[str, Any], features: int) -> "Scale":
        """From ``data.standardize``, as `spec` writes it.

        Raises:
            ValueError: it is none for so many features.
        """
        try:
            found = cls(tuple(map(float, spec["mean"])), tuple(map(float, spec["deviation"])))
        except (KeyError, TypeError, ValueError) as error:
            raise told(
                ValueError("data.standardize must be true, false, agreed, or lists mean and deviation")
            ) from error
        numbers = (*found.mean, *found.deviation)
        if {len(found.mean), len(found.deviation)} != {features} or not all(map(math.isfinite, numbers)):
            raise told(ValueError(f"data.standardize must have {features} finite numbers of mean and of deviation"))
        if min(found.deviation) <= 0:
            raise told(ValueError("data.standardize: a deviation must be positive"))
        return found

    @property
    def spec(self) -> dict[str, list[float]]:
        """As the configuration has it."""
        return {"mean": list(self.mean), "deviation": list(self.deviation)}

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """The columns (N, features), shifted and scaled."""
        scaled: NDArray[Any] = (values - np.array(self.mean)) / np.array(self.deviation)
        return scaled


def sums(values: NDArray[Any]) -> Tensor:
    """What a party adds, of its rows (N, features): words as `scale_of` reads their sum.

    Raises:
        ValueError: they are too large.
    """
    columns = np.asarray(values, np.float64).reshape(len(values), -1).T
    numbers: list[float] = [float(len(values))]
    for column in columns:
        numbers += [math.fsum(column), math.fsum(column * column)]
    try:
        return exact_words.encode(numbers)
    except ValueError as error:
        text = "a sum over a column, or over its squares, is too large for a common scale"
        raise told(ValueError(text)) from error


def length(features: int) -> int:
    """Words of a party."""
    return exact_words.length(1 + 2 * features)


def scale_of(total: Tensor) -> Scale:
    """The scale of all rows together.

    Args:
        total: the sum of all parties' words.

    Raises:
        ValueError: it is no such sum.
    """
    count, *rest = exact_words.decode(total)
    if count < 1:
        raise ValueError("the sums of the columns are those of no rows: a node has made them up")
    means, deviations = [], []
    for first, second in zip(rest[::2], rest[1::2], strict=True):
        variance = second / count - (first / count) ** 2
        if variance < -second / count / 2**20 - Fraction(1, 2**30) or second < 0:  # beyond what rounding explains
            raise ValueError("the sums of the columns are those of no rows: a node has made them up")
        means.append(float(first / count))
        deviations.append(math.sqrt(variance) if variance > 0 else 1.0)
    return Scale(tuple(means), tuple(deviations))
