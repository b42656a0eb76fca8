"""The common grid of secure aggregation: updates as integers, whose sum is all that anybody gets to see.

An update is a vector in the space of `fedrac.aggregation.update_vectors`. Its entries become multiples of one step,
rounded at random without bias. Sums of such integers are exact, in whatever order, also modulo 2^width where masks are
added (Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", 2017). Noise for privacy
is a share of every client, whole numbers of steps, too (Kairouz, Liu and Steinke, "The distributed discrete Gaussian
mechanism", 2021).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrac.aggregation.exact_words import PARTIES
from fedrac.aggregation.guard import GuardSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.streams import Stream, uniform

_TAILS = 8.3  # standard deviations, beyond which the noise never is: it is made of 52-bit numbers
_LOSS_UNIT, _LOSS_BITS = 2.0**-16, 32  # losses are told as multiples of it, up to 2^16
_WIDTHS = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


@dataclass(frozen=True)
class SecureSpec:
    """``secure_aggregation`` of the configuration.

    Attributes:
        enabled: whether the server sees sums alone.
        bits: of a number on the grid, sign included.
        range: no entry of an update is larger in absolute value; larger ones are cut. None: ``guard.clip``, which none
            of a clipped update is.
        threshold: the shares of a client's secrets are held by the clients that it shares masks with, and by itself;
            more than this share of them must be there at the end.
        neighbours: how many clients a client shares masks with; all others, where there are not more (Bell et al.,
            "Secure single-server aggregation with (poly)logarithmic overhead", 2020).

    Raises:
        ValueError: a value is out of its range.
    """

    enabled: bool = False
    bits: int = 16
    range: float | None = None
    threshold: float = 0.5
    neighbours: int = 64

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"secure_aggregation.bits={self.bits} must lie in 2 .. 32")
        if self.range is not None and not 0 < self.range < math.inf:
            raise ValueError(f"secure_aggregation.range={self.range} must be positive and finite, or null")
        if not 0.5 <= self.threshold < 1:
            raise ValueError(
                f"secure_aggregation.threshold={self.threshold} must lie in [0.5, 1): with half of the shares or less, "
                "two halves of the clients could be asked for different secrets of one client"
            )
        if self.neighbours < 2 or self.neighbours % 2:
            raise ValueError(f"secure_aggregation.neighbours={self.neighbours} must be an even number from 2")

    def check(self, guard: GuardSpec, method: Method, server: ServerSpec, testers: float = 0) -> None:
        """Whether it fits the rest of the run, in which so many clients test, 0 or more.

        Raises:
            ValueError: it does not.
        """
        if not self.enabled:
            return
        apart = "the server sees the sum of all clients alone"
        if guard.mean != "mean":
            raise ValueError(f"guard.mean={guard.mean} compares clients, and with secure_aggregation=on {apart}")
        if guard.clip_quantile is not None:
            raise ValueError(
                f"guard.clip_quantile={guard.clip_quantile} follows the clients' lengths, and with "
                f"secure_aggregation=on {apart}: set guard.clip"
            )
        if method.average == "products":
            raise ValueError(
                f"method.average=products is no sum of factors, and with secure_aggregation=on {apart}: choose a "
                "method that averages factors"
            )
        if method.has_own("mean"):
            raise ValueError(f"method {method.name} has a mean of its own, and with secure_aggregation=on {apart}")
        if server.weighting != "uniform":
            raise ValueError(
                f"server.weighting={server.weighting} with secure_aggregation=on: a client could make up its "
                "weight; set server.weighting=uniform"
            )
        if testers and guard.noise:
            raise ValueError(
                "evaluate.on_clients=true, or a server without test data, tells exact sums of what clients find, and "
                f"with guard.noise={guard.noise} nothing without noise is told: test on the server"
            )
        if testers == 1:
            raise ValueError("evaluate.on_clients=1 with secure_aggregation=on: a sum over one client is what it found")
        if PARTIES < testers < math.inf:
            raise ValueError(
                f"evaluate.on_clients={testers}: with secure_aggregation=on at most {PARTIES} can be added up"
            )
        if server.least_clients < 2:
            raise ValueError(
                "secure_aggregation=on needs at least 2 clients in every round, and 1 may be all that answers "
                "(cohort.size x cohort.min_fraction): raise these"
            )
        if self.range is None and guard.clip is None:
            raise ValueError(
                "secure_aggregation=on needs a bound for its grid: set guard.clip or secure_aggregation.range"
            )

    def least(self, holders: int) -> int:
        """How many of ``holders`` shares bring back a secret: more than ``threshold`` of them."""
        return math.floor(self.threshold * holders) + 1


@dataclass(frozen=True)
class SecureGrid:
    """What a client needs to put its update on the grid of a round.

    Attributes:
        step: distance of two values, in units of an update.
        limit: largest integer of an entry, without noise.
        width: bits of a word: sums are taken modulo ``2 ** width``.
        clip: bound on the length of an update; None: none.
        noise: standard deviation of the client's share of the noise, in steps; 0: none.
    """

    step: float
    limit: int
    width: int
    clip: float | None
    noise: float

    @property
    def dtype(self) -> torch.dtype:
        """Of words: signed, as sums are read."""
        return _WIDTHS[self.width]

    def length(self, entries: int) -> int:
        """Words of an update of so many entries: with noise nothing else is told, as no noise hides it."""
        return entries if self.noise else entries + 1 + math.ceil(_LOSS_BITS / self._digit)

    @property
    def _digit(self) -> int:
        """Bits of a digit of a loss, which has the room of an entry."""
        return self.limit.bit_length()

    def encode(self, row: Tensor, loss: float, stream: Stream, normal: Tensor | None = None) -> Tensor:
        """One client's update as words: the entries; whether nothing was cut, 0 or 1; the loss, by digits.

        Args:
            row: (d,) float64.
            loss: mean training loss; cut to ``0 .. 2^16``.
            stream: rounds.
            normal: (d,) standard normal numbers, where there is noise.

        Raises:
            ValueError: something is not finite.
        """
        if not (torch.isfinite(row).all() and math.isfinite(loss)):
            raise ValueError("the update is not finite")
        kept = self._clipped(row)
        dither = torch.from_numpy(uniform(stream.words(len(row))))
        whole = torch.floor(kept / self.step + dither)
        words = whole.clamp(-self.limit, self.limit).to(torch.int64)
        if self.noise:
            assert normal is not None
            return (words + (self.noise * normal).round().to(torch.int64)).to(self.dtype)
        uncut = bool(torch.equal(kept, row)) and float(row.abs().max()) <= self.step * self.limit
        units = round(min(max(loss, 0.0), 2.0**16 - 1) / _LOSS_UNIT)
        digits = [units >> place & 2**self._digit - 1 for place in range(0, _LOSS_BITS, self._digit)]
        return torch.cat([words, torch.tensor([int(uncut), *digits])]).to(self.dtype)

    def _clipped(self, row: Tensor) -> Tensor:
        """No longer than ``clip``, also after rounding, which moves every entry by less than a step."""
        if self.clip is None:
            return row
        bound = self.clip - self.step * math.sqrt(len(row))
        return row * min(1.0, bound / max(float(torch.linalg.vector_norm(row)), bound))

    def decode(self, total: Tensor, clients: int) -> "SecureTotal":
        """What the sum of ``clients`` updates says.

        Args:
            total: (length,) words.

        Raises:
            ValueError: it is no sum of that many updates.
        """
        numbers = total.to(torch.int64)
        entries = len(numbers) - self.length(0)
        most = clients * (self.limit + math.ceil(_TAILS * self.noise))
        if bool((numbers[:entries].abs() > most).any()) or bool((numbers[entries:] < 0).any()):
            raise ValueError(f"the sum is larger than {clients} updates on the grid can be: one of them is not")
        row = numbers[:entries].double() * self.step
        if self.noise:
            return SecureTotal(row, None, None)
        uncut, *digits = numbers[entries:].tolist()
        units = sum(digit << self._digit * place for place, digit in enumerate(digits))
        return SecureTotal(row, uncut, units * _LOSS_UNIT)


@dataclass(frozen=True)
class SecureTotal:
    """Sums over the clients of a round.

    Attributes:
        row: of the updates, (d,) float64.
        uncut: how many clients had nothing cut; None where noise hides the updates.
        loss: of the mean training losses; None where noise hides the updates.
    """

    row: Tensor
    uncut: int | None
    loss: float | None


def grid_of(spec: SecureSpec, guard: GuardSpec, cohort: int, least: int, entries: int) -> SecureGrid:
    """The grid of a run's rounds.

    Args:
        spec: with ``enabled``.
        guard: with the bound and the noise.
        cohort: clients that are asked.
        least: clients that may be all that answer: so many shares of noise are as much as ``guard.noise`` wants.
        entries: d.

    Raises:
        ValueError: the bits are too few for the bound, or for the noise.
    """
    bound = spec.range if spec.range is not None else guard.clip
    assert bound is not None
    limit = 2 ** (spec.bits - 1) - 1
    step = bound / limit
    if guard.clip is not None and step * math.sqrt(entries) > guard.clip / 2:
        raise ValueError(
            f"secure_aggregation.bits={spec.bits} is too coarse for {entries} numbers within guard.clip={guard.clip}: "
            "set more bits, or a secure_aggregation.range"
        )
    noise = guard.noise * (guard.clip or 0.0) / (step * math.sqrt(least))
    if guard.noise and noise < 1:
        raise ValueError(
            f"guard.noise={guard.noise}: a client's share of it is {noise:.2g} steps of the grid, and less than one is "
            "not hidden by rounding: set more secure_aggregation.bits"
        )
    most = cohort * (limit + math.ceil(_TAILS * noise))
    width = next((width for width in _WIDTHS if most < 2 ** (width - 1)), None)
    if width is None:
        raise ValueError(
            f"guard.noise={guard.noise} is too large for sums of 64 bits: set fewer secure_aggregation.bits"
        )
    return SecureGrid(step, limit, width, guard.clip, noise)
