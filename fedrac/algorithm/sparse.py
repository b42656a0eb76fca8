"""Vectors of which only the largest entries are sent: their values, and where they stand.

Both ends know how long a vector is and how many entries are kept, so that the bytes of a message follow from these two.
First come the places: one bit for every entry of the vector, or a number of 32 bits for each one that is kept,
whichever is shorter; nothing where all are kept. Then come the values, in the order of their places. All is
little-endian.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Densities:
    """Which share of the entries is sent.

    Attributes:
        download: of the factors that a round starts from, which the server has sent.
        upload: of how far a client went.

    Raises:
        ValueError: a share is not in (0, 1].
    """

    download: float
    upload: float

    def __post_init__(self) -> None:
        for way, share in vars(self).items():
            if not 0 < share <= 1:
                raise ValueError(f"method.{way}_density={share} must lie in (0, 1]: the share of entries that is sent")


@dataclass(frozen=True)
class SparseVector:
    """How a vector is sent.

    Attributes:
        length: its entries, N.
        density: which share of them is kept, to the nearest number, and at least one.
        dtype: of the values, float32 or float64.
    """

    length: int
    density: float
    dtype: np.dtype[Any]

    @property
    def count(self) -> int:
        """How many entries are kept."""
        return max(round(self.density * self.length), 1)

    @property
    def size(self) -> int:
        """Bytes of the vector as it is sent."""
        return self._places + self.count * self.dtype.itemsize

    @property
    def _places(self) -> int:
        """Bytes that say where the values stand."""
        if self.count == self.length:
            return 0
        return 4 * self.count if self._listed else self._bits

    @property
    def _bits(self) -> int:
        return -(-self.length // 8)

    @property
    def _listed(self) -> bool:
        return 4 * self.count < self._bits and self.length <= 2**32

    def encode(self, vector: NDArray[Any]) -> Bytes:
        """A vector (N,) as (`size`,) uint8."""
        places = largest(vector, self.count)
        parts = [vector[places].astype(self.dtype.newbyteorder("<")).view(np.uint8)]
        if self._places and self._listed:
            parts.insert(0, places.astype("<u4").view(np.uint8))
        elif self._places:
            bits = np.zeros(self.length, np.uint8)
            bits[places] = 1
            parts.insert(0, np.packbits(bits, bitorder="little"))
        return np.concatenate(parts)

    def decode(self, coded: Bytes) -> NDArray[Any]:
        """The vector (N,), zero where nothing was sent.

        Raises:
            ValueError: the places are not so many different ones of the vector.
        """
        values = coded[self._places :].copy().view(self.dtype.newbyteorder("<"))
        found = np.zeros(self.length, self.dtype)
        found[self._read(coded[: self._places])] = values
        return found

    def _read(self, said: Bytes) -> NDArray[np.int64]:
        if not self._places:
            return np.arange(self.length)
        if self._listed:
            places = said.copy().view("<u4").astype(np.int64)
            good = bool((np.diff(places) > 0).all()) and places[-1] < self.length
        else:
            bits = np.unpackbits(said, bitorder="little")
            places = np.flatnonzero(bits)
            good = len(places) == self.count and not bits[self.length :].any()
        if not good:
            raise ValueError(f"the places are not {self.count} different ones of {self.length}, in order")
        return places


def largest(vector: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Places of the ``count`` entries of largest magnitude, ascending; of equal ones the first. NaN is the largest."""
    size = np.nan_to_num(np.abs(vector), nan=np.inf)
    least = np.partition(size, len(size) - count)[len(size) - count]
    above = size > least
    ties = np.flatnonzero(size == least)[: count - int(above.sum())]
    above[ties] = True
    return np.flatnonzero(above)
