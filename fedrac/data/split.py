"""Cutting examples into a training and a test part, the same way whatever the run's seed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.algorithm.streams import Stream

Index = NDArray[np.int64]


def split_whole(groups: NDArray[Any], test_fraction: float, seed: int) -> tuple[Index, Index]:
    """As `split`, but of whole groups: ``test_fraction`` of them, with all their examples, go to the test part.

    Args:
        groups: (N,) the group of each example.
        test_fraction: between 0 and 1.
        seed: names the split.
    """
    names, owners = np.unique(groups, return_inverse=True)
    _, for_test = split(np.zeros(len(names)), test_fraction, seed)
    test = np.isin(owners, for_test)
    return np.flatnonzero(~test), np.flatnonzero(test)


def split(strata: NDArray[Any], test_fraction: float, seed: int) -> tuple[Index, Index]:
    """Example ids of the training and the test part, each (k,) int64 and ascending.

    Args:
        strata: (N,) class of each example; ``round(test_fraction * size)`` of every class go to the test
            part. Which ones depends on the class and the seed alone, so leaving other classes out changes
            nothing.
        test_fraction: between 0 and 1.
        seed: names the split; not the run's seed, so that all runs are tested on the same examples.

    Raises:
        ValueError: the fraction is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"data.test_fraction={test_fraction} is not between 0 and 1: 0.2 keeps a fifth for testing")
    test = np.zeros(len(strata), dtype=bool)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        order = Stream(seed, "split", str(stratum)).permutation(len(members))
        test[members[order[: round(test_fraction * len(members))]]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)
