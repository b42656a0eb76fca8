"""One small problem in two forms: objects for `fedrac.fit`, and functions that the command takes by import path."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SIZES = (7, 12, 1, 9, 5)  # of the clients
COMMAND = ("data=custom", "data._target_=twins.data", "model=custom", "model._target_=twins.net", "partition=natural")
SHORT = ("rounds=3", "evaluate.every=2", "local.schedule.shape=constant")  # so that more rounds can follow

Pair = tuple[NDArray[np.float32], NDArray[np.int64]]


def pair(rows: int, seed: int, classes: int = 3, features: int = 6) -> Pair:
    """Inputs (rows, features) and labels (rows,) that a linear model can learn."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((rows, features)).astype(np.float32)
    return inputs, inputs[:, :classes].argmax(axis=1)


def clients() -> list[Pair]:
    """Unequal ones."""
    return [pair(rows, seed) for seed, rows in enumerate(SIZES)]


def held_out() -> Pair:
    return pair(40, 99)


def net() -> nn.Module:
    """The same weights in every call, whatever the seed of the run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def data() -> tuple[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]], Pair]:
    """The clients' examples in one table, with their groups."""
    inputs, labels = (np.concatenate(column) for column in zip(*clients(), strict=True))
    return (inputs, labels, np.repeat(np.arange(len(SIZES)), SIZES)), held_out()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}
