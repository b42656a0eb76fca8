"""Partition schemes that need no labels: equal sizes, unequal sizes, the data's own clients.

Each takes the training examples, the run's seed and its options, and returns the owner of every example, (N,)
int64, and the number of clients.
"""

import numpy as np
from numpy.typing import NDArray

from fedrac.algorithm.streams import Stream
from fedrac.data.examples import Examples

Index = NDArray[np.int64]


def iid(train: Examples, seed: int, clients: int) -> tuple[Index, int]:
    """Sizes that differ by one at most, examples at random: the owner of each, (N,), and their number."""
    sizes = np.diff(np.arange(clients + 1) * len(train) // clients)
    return _shuffled(sizes, seed), clients


def size(train: Examples, seed: int, clients: int, law: str, min_size: int = 1) -> tuple[Index, int]:
    """Examples at random; ``min_size`` for everyone, the rest in proportion to c, c^2 or exp(c), c = 1 .. M.

    Each size is within one example of its exact share.

    Raises:
        ValueError: the law is none of those.
    """
    number = np.arange(1, clients + 1, dtype=np.float64)
    laws = {"linear": number, "square": number**2, "exponential": np.exp(number - clients)}
    if law not in laws:
        raise ValueError(f"partition.law={law!r} is unknown: choose one of {', '.join(laws)}")
    rest = len(train) - clients * min_size
    shares = np.cumsum(laws[law])
    ends = np.rint(shares / shares[-1] * rest).astype(np.int64)  # rounding the ends keeps the sum
    return _shuffled(min_size + np.diff(ends, prepend=0), seed), clients


def natural(train: Examples, seed: int, clients: int | None = None) -> tuple[Index, int]:
    """The data's own clients: client c is the c-th of the groups (N,) that training examples have, sorted.

    Raises:
        ValueError: the data have no groups, or another number of them than ``clients``.
    """
    if train.groups is None:
        raise ValueError("partition.scheme=natural needs data with clients of their own: set e.g. data.group=COLUMN")
    groups, owners = np.unique(train.groups, return_inverse=True)
    if clients not in (None, len(groups)):
        raise ValueError(
            f"partition.clients={clients} but the data have {len(groups)} clients of their own: set "
            f"partition.clients={len(groups)} or null"
        )
    return owners.astype(np.int64), len(groups)


def _shuffled(sizes: Index, seed: int) -> Index:
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return owners[Stream(seed, "partition", 0).permutation(len(owners))]
