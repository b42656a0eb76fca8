"""How long a client's round would take, by its speed and bandwidth, from a table or a distribution. Nobody waits."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist

from fedrac.algorithm.streams import Stream, uniform

RATES = ("speed", "upload", "download")
RANK = "rank"


@dataclass(frozen=True)
class LogNormal:
    """Rates that spread over clients: ``median * exp(sigma z)`` with a standard normal ``z`` for each client.

    Attributes:
        median: half of the clients are slower.
        sigma: standard deviation of the logarithm; 0: all are alike.
    """

    median: float
    sigma: float = 0.0


Rate = float | LogNormal


@dataclass(frozen=True)
class SystemSpec:
    """What clients can do. What is None takes no time.

    Attributes:
        speed: training examples a second, every pass over the data counted.
        upload, download: bytes a second.
        table: a CSV file with a column ``client`` and any of these three, in place of them for the clients in it, or
            ``rank``, the largest that a client can train (`Method.ranks`).
        jitter: standard deviation of the logarithm of a factor on a client's time, drawn anew in every round.
        deadline: seconds after which a client's answer does not count; None: all are waited for.

    Raises:
        ValueError: a value is not positive, or the table has no such columns.
        OSError: the table cannot be read.
    """

    speed: Rate | None = None
    upload: Rate | None = None
    download: Rate | None = None
    table: str | None = None
    jitter: float = 0.0
    deadline: float | None = None

    def __post_init__(self) -> None:
        for name in RATES:
            rate = getattr(self, name)
            median, sigma = (rate.median, rate.sigma) if isinstance(rate, LogNormal) else (rate, 0.0)
            if median is not None and not 0 < median < math.inf:
                raise ValueError(f"system.{name}={rate} must be positive and finite")
            if not 0 <= sigma < math.inf:
                raise ValueError(f"system.{name}.sigma={sigma} must not be negative, nor infinite")
        if not 0 <= self.jitter < math.inf:
            raise ValueError(f"system.jitter={self.jitter} must not be negative, nor infinite")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise ValueError(f"system.deadline={self.deadline} must be positive and finite, or null")
        if self.table is not None:
            _read_table(self.table)
        if self.deadline is not None and not self.is_active:
            raise ValueError("system.deadline: nothing takes time: set system.speed, upload, download or table")

    @property
    def is_active(self) -> bool:
        """Whether anything takes time."""
        listed = _read_table(self.table).values() if self.table else ()
        timed = any(name in line for line in listed for name in RATES)
        return timed or any(getattr(self, name) is not None for name in RATES)

    def rank(self, client: int) -> int | None:
        """The largest that the client can train; None: any."""
        found = _read_table(self.table).get(client, {}).get(RANK) if self.table else None
        return None if found is None else int(found)

    def rate(self, name: str, client: int, seed: int) -> float:
        """``speed``, ``upload`` or ``download`` of a client, in all rounds: the stream ``system/name/client``."""
        listed = _read_table(self.table).get(client, {}) if self.table else {}
        rate = listed.get(name, getattr(self, name))
        if isinstance(rate, LogNormal):
            return rate.median * math.exp(rate.sigma * _normal(Stream(seed, "system", name, client)))
        return math.inf if rate is None else float(rate)

    def seconds(self, client: int, work: "Work", seed: int, round_: int) -> float:
        """How long the client's round takes: download, training and upload, one after another."""
        parts = {"download": work.download, "speed": work.examples, "upload": work.upload}
        total = sum(amount / self.rate(name, client, seed) for name, amount in parts.items())
        factor = math.exp(self.jitter * _normal(Stream(seed, "jitter", round_, client))) if self.jitter else 1.0
        return total * factor


@dataclass(frozen=True)
class Work:
    """What a client does in one round.

    Attributes:
        examples: that it trains on, every pass over its data counted.
        download, upload: bytes.
    """

    examples: int
    download: int
    upload: int


def _normal(stream: Stream) -> float:
    return NormalDist().inv_cdf(float(uniform(stream.words(1))[0]))


@lru_cache(maxsize=4)
def _read_table(path: str) -> Mapping[int, Mapping[str, float]]:
    with Path(path).expanduser().open(newline="") as file:
        lines = list(csv.DictReader(file))
    try:
        names = (*RATES, RANK)
        table = {int(line["client"]): {k: float(line[k]) for k in names if line.get(k)} for line in lines}
        if not lines or not any(table.values()):
            raise ValueError("there is no line with one of them")
        if wrong := [rate for rates in table.values() for rate in rates.values() if not 0 < rate < math.inf]:
            raise ValueError(f"{wrong[0]} is not positive and finite")
        if wrong := [rates[RANK] for rates in table.values() if rates.get(RANK, 1) % 1]:
            raise ValueError(f"rank {wrong[0]} is not a whole number")
    except (KeyError, TypeError, ValueError) as error:
        wanted = f"a column client and one of {', '.join((*RATES, RANK))}"
        raise ValueError(f"system.table={path}: it needs {wanted}: {error}") from error
    return table
