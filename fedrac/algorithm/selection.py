"""Who can be drawn for a round, and with which chances. The theorems of arXiv 2410.08305 are of uniform cohorts."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedrac.algorithm.streams import Index, Stream, uniform

Rule = Literal["uniform", "size"]

_COLUMNS = ("client", "from", "until")


@dataclass(frozen=True)
class SelectionSpec:
    """How a cohort is drawn.

    Attributes:
        rule: ``uniform``, without replacement, as in the paper; ``size``: without replacement, the next client
            always in proportion to the numbers of examples of those that are left.
        available: who is on line in a round. None: everybody; a number in (0, 1]: each client with this probability,
            anew in every round; the path of a CSV file: its columns ``client``, ``from`` and ``until`` are a client and
            the first and last round of a time on line. A client may have many lines; one without is never on line.

    Raises:
        ValueError: a value is out of its range, or the file has other columns.
        OSError: it cannot be read.
    """

    rule: Rule = "uniform"
    available: float | str | None = None

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(f"cohort.selection={self.rule!r} is unknown: choose uniform or size")
        if isinstance(self.available, str):
            _read_trace(self.available)
        elif self.available is not None and not 0 < self.available <= 1:
            raise ValueError(f"cohort.available={self.available} must lie in (0, 1], or be a file or null")

    @property
    def is_uniform(self) -> bool:
        """Whether every set of clients is as likely as every other of its size, in every round."""
        return self.rule == "uniform" and self.available is None

    def on_line(self, clients: Index, seed: int, round_: int) -> NDArray[np.bool_]:
        """(M,) of the clients (M,), ascending ids: who can be drawn in a round, from the stream ``available/round``."""
        if isinstance(self.available, str):
            ids, first, last = _read_trace(self.available)
            return np.isin(clients, ids[(first <= round_) & (round_ <= last)])
        if self.available is None:
            return np.ones(len(clients), bool)
        return uniform(Stream(seed, "available", round_).words(len(clients))) < self.available

    def draw(self, clients: Index, examples: Index, size: int, seed: int, round_: int) -> list[int]:
        """The cohort of a round, ascending: ``size`` of those that are on line, or all if they are fewer.

        Args:
            clients: ids of all clients, (M,), ascending.
            examples: how many each has, (M,).
            size: C.
            seed: of the streams ``available/round`` and ``cohort/round``.
            round_: from 1.
        """
        if self.available is not None:
            there = self.on_line(clients, seed, round_)
            clients, examples = clients[there], examples[there]
        size = min(size, len(clients))
        if self.rule == "uniform" or not size:
            return _uniform(clients, size, seed, round_) if size else []
        # The least of exponential variables with these rates are a sample in proportion to them, without replacement
        # (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006).
        arrivals = -np.log(uniform(Stream(seed, "cohort", round_).words(len(clients)))) / examples
        return [int(c) for c in np.sort(clients[np.argsort(arrivals, kind="stable")[:size]])]


def draw_cohort(clients: Sequence[int] | Index, size: int, seed: int, round_: int) -> list[int]:
    """``size`` distinct clients, uniform over all of them, ascending, from the stream ``cohort/round``.

    Args:
        clients: ids of all clients, (M,).
        size: C.
        seed: the run's seed, or the secret of `fedrac.aggregation.guard`.
        round_: from 1.

    Raises:
        ValueError: there are fewer clients than that.
    """
    if size > len(clients):
        raise ValueError(f"cohort.size={size} is larger than the population of {len(clients)} clients: lower it")
    return _uniform(np.sort(np.asarray(clients, dtype=np.int64)), size, seed, round_)


def _uniform(clients: Index, size: int, seed: int, round_: int) -> list[int]:
    """The same of ascending ids (M,). There may be a million: nothing here goes through them all."""
    cohort: list[int] = clients[Stream(seed, "cohort", round_).subset(len(clients), size)].tolist()
    return cohort


@lru_cache(maxsize=4)
def _read_trace(path: str) -> tuple[Index, Index, Index]:
    with Path(path).expanduser().open(newline="") as file:
        lines = list(csv.DictReader(file))
    try:
        ids, first, last = (np.array([int(line[name]) for line in lines], np.int64) for name in _COLUMNS)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"cohort.available={path}: it needs whole numbers in {', '.join(_COLUMNS)}: {error}"
        ) from error
    return ids, first, last
