"""A validation set: settings are chosen on it, so that the test set is looked at once."""

import hashlib
from dataclasses import replace

import numpy as np

from fedrac.data.examples import Data
from fedrac.data.split import split, split_whole


def hold_out(data: Data, fraction: float) -> Data:
    """The data with a part of the training examples in the place of the test part.

    Args:
        data: its test part is left out.
        fraction: this part of every class (of all examples of a regression; of the groups, where those of the test part
            are apart) is held out: no client has it. Which ones does not depend on the run's seed.

    Raises:
        ValueError: the fraction is not between 0 and 1, or holds out no example.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"evaluate.validation={fraction} is not between 0 and 1: 0.1 holds out a tenth; null: no validation"
        )
    train = data.train
    strata = np.zeros(len(train), np.int64) if train.labels is None else train.labels
    if data.groups_apart and train.groups is not None:
        kept, held = split_whole(train.groups, fraction, seed=0)
    else:
        kept, held = split(strata, fraction, seed=0)
    if not len(held):
        raise ValueError(f"evaluate.validation={fraction} holds out none of {len(train)} examples: choose more")
    key = data.key and hashlib.sha256(f"{data.key}|validation={fraction}".encode()).hexdigest()
    return replace(data, train=train.take(kept), test=train.take(held), key=key)
