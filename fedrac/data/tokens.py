"""Texts as token ids: rows of different lengths, one after another in flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tokens:
    """N tokenized texts (or pairs of texts); normally read-only memory maps.

    Attributes:
        ids: (L,) int32, the token ids of all texts, one text after another.
        offsets: (N + 1,) int64; text i has ``ids[offsets[i]:offsets[i + 1]]``, at least one token.
        pad: the token id that stands behind a text which is shorter than its batch.
        types: (L,) int32 token types (0: first text of a pair, 1: second), for models that want them.

    Raises:
        ValueError: arrays of another dtype or that do not fit together, or a text without tokens.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    pad: int
    types: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if self.ids.dtype != np.int32 or self.offsets.dtype != np.int64:
            raise ValueError(f"ids are {self.ids.dtype}, offsets {self.offsets.dtype}: make them int32 and int64")
        if self.types is not None and (self.types.dtype, self.types.shape) != (self.ids.dtype, self.ids.shape):
            raise ValueError(f"token types are {self.types.dtype} {self.types.shape}: one int32 for every token id")
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.ids):
            raise ValueError(f"offsets must run from 0 to the number of ids, {len(self.ids)}")
        if (self.lengths < 1).any():
            raise ValueError(f"text {int((self.lengths < 1).argmax())} has no tokens")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each text, (N,) int64."""
        return np.diff(self.offsets)

    def text_of(self, place: int) -> int:
        """The text that ``ids[place]`` belongs to."""
        return int(np.searchsorted(self.offsets, place, side="right")) - 1

    def __getitem__(self, index: NDArray[np.int64]) -> "Tokens":
        """The texts that ``index`` (k,) names, in its order; copies in memory."""
        lengths = self.offsets[index + 1] - self.offsets[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        place = np.arange(offsets[-1]) + np.repeat(self.offsets[index] - offsets[:-1], lengths)
        types = None if self.types is None else np.asarray(self.types[place])
        return Tokens(np.asarray(self.ids[place]), offsets, self.pad, types)

    def padded(self) -> NDArray[np.int64]:
        """All texts as one batch, padded at the end to the longest of them.

        Returns:
            (N, 2, longest) int64: token ids, and the attention mask (1: a token, 0: padding). Where there are token
            types (N, 3, longest), the types last.
        """
        lengths = self.lengths
        real = np.arange(lengths.max(initial=0)) < lengths[:, None]
        columns = [_fill(self.ids, real, self.pad), real.astype(np.int64)]
        return np.stack(columns if self.types is None else [*columns, _fill(self.types, real, 0)], axis=1)


def join(rows: Sequence[Sequence[int]], pad: int, types: Sequence[Sequence[int]] | None = None) -> Tokens:
    """Tokens from a list for every text."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return Tokens(_flat(rows), offsets, pad, None if types is None else _flat(types))


def _flat(rows: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.fromiter((value for row in rows for value in row), np.int32, sum(map(len, rows)))


def _fill(values: NDArray[np.int32], real: NDArray[np.bool_], pad: int) -> NDArray[np.int64]:
    table = np.full(real.shape, pad, dtype=np.int64)
    table[real] = values
    return table
