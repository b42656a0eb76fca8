"""Every random draw of a run, by name.

A stream is a sequence of raw 64-bit words of Philox4x64-10, keyed by a SHA-256 of its name: the run's seed, the
purpose, and what it is drawn for (a round, a client, a parameter). Words become numbers through integer
operations alone, so that every machine, process and library version draws the same ones. NumPy promises the
words of a bit generator; it does not promise the numbers that its ``Generator`` makes of them.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Index = NDArray[np.int64]


# One generator that is set to a stream's place before every draw: setting takes a tenth of the time of making one.
_PHILOX = np.random.Philox(key=0)
_ALL = 2**16  # of so many a subset is drawn with a word for each
_STATE: Any = {**_PHILOX.state, "buffer": (0, 0, 0, 0)}


def uniform(words: Words) -> NDArray[np.float64]:
    """Numbers in (0, 1): the middle of one of 2^52 cells, so that neither 0 nor 1 reaches an inverse distribution."""
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


class Stream:
    """The words of one named stream, in order.

    Args:
        seed: the run's seed.
        purpose: what is drawn: ``"sketch"``, ``"cohort"``, ``"order"``, ... Streams of different purposes are
            independent, as the theorems of arXiv 2410.08305 need for sketches and cohorts.
        parts: what it is drawn for, e.g. a round and a client or a parameter's name.
    """

    def __init__(self, seed: int, purpose: str, *parts: int | str) -> None:
        name = "|".join([f"fed-rac-lora/{purpose}/v1", str(seed), *map(str, parts)])
        digest = hashlib.sha256(name.encode()).digest()
        self._key = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
        self._drawn = 0

    @property
    def key(self) -> Words:
        """Philox's, (2,) uint64."""
        return np.array(self._key, dtype=np.uint64)

    def words(self, count: int) -> Words:
        """The next ``count`` words, (count,) uint64."""
        block, used = divmod(self._drawn, 4)  # Philox makes four words from one value of its counter
        self._drawn += count
        with _PHILOX.lock:
            # Setting is four times as fast with Python's integers as with arrays.
            place: Any = {**_STATE, "state": {"key": self._key, "counter": (block, 0, 0, 0)}}
            _PHILOX.state = place
            return np.asarray(_PHILOX.random_raw(used + count), dtype=np.uint64)[used:]

    def below(self, bound: int) -> int:
        """One integer, uniform over ``0 .. bound - 1`` exactly: words beyond a multiple of it are rejected."""
        limit = 2**64 - 2**64 % bound
        while (word := int(self.words(1)[0])) >= limit:
            pass
        return word % bound

    def integers(self, bound: int, count: int) -> Index:
        """``count`` integers, (count,) int64, uniform over ``0 .. bound - 1`` (with replacement)."""
        limit = 2**64 - 2**64 % bound
        words = self.words(count)
        while (bad := words > np.uint64(limit - 1)).any():
            words[bad] = self.words(int(bad.sum()))
        return (words % np.uint64(bound)).astype(np.int64)

    def permutation(self, count: int) -> Index:
        """A uniform order of ``0 .. count - 1``, (count,) int64: the ranks of ``count`` words."""
        return self.words(count).argsort(kind="stable").astype(np.int64, copy=False)

    def subset(self, count: int, size: int) -> Index:
        """``size`` of ``0 .. count - 1``, (size,) int64, ascending, uniform without replacement.

        Of up to 65,536 they are the places of the least words. Of more, a word for each would take longer than a round:
        there they are the distinct ones of integers, of which more are drawn until there are enough; where more than
        half are wanted, it is the others that are drawn.
        """
        if count > _ALL:
            return self._few_of_many(count, size)
        words = self.words(count)
        # Only words below twice the expected greatest are looked at, if these are enough: all others are greater.
        few = np.flatnonzero(words < np.uint64(min(2 * size * 2**64 // max(count, 1), 2**64 - 1)))
        among = few if len(few) > size else np.arange(count)
        return np.sort(among[np.argpartition(words[among], min(size, len(among) - 1))[:size]]).astype(np.int64)

    def _few_of_many(self, count: int, size: int) -> Index:
        if 2 * size > count:
            return np.delete(np.arange(count), self._few_of_many(count, count - size))
        found = self.integers(count, 0)
        while missing := size - len(found):
            found = np.unique(np.append(found, self.integers(count, missing)))
        return found

    def distinct(self, bound: int, count: int) -> Index:
        """``count`` distinct integers of ``0 .. bound - 1``, (count,) int64, by a partial Fisher-Yates shuffle.

        Raises:
            ValueError: there are not so many.
        """
        if count > bound:
            raise ValueError(f"cannot draw {count} distinct integers below {bound}")
        moved: dict[int, int] = {}
        drawn = []
        for place in range(count):
            other = place + self.below(bound - place)
            drawn.append(moved.get(other, other))
            moved[other] = moved.get(place, place)
        return np.array(drawn, dtype=np.int64)

    def seed63(self) -> int:
        """A seed for a library with a generator of its own: the first word's upper 63 bits."""
        return int(self.words(1)[0] >> np.uint64(1))
