"""What stands between the clients' factors and the weights: clipping, robust means, and noise for privacy.

All of it is off by default, and then the mean of `fedrac.algorithm.round_means` is taken instead. docs/security.md says
what it protects, and against whom.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedrac.aggregation import privacy
from fedrac.aggregation.robust import Mean, check, lengths, robust_mean, total
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.method import Method
from fedrac.algorithm.selection import SelectionSpec
from fedrac.algorithm.state import GuardState

_MOST_NOISE = 1e6
_RATE = 0.2  # of the adaptive bound (Andrew et al., 2021)


@dataclass(frozen=True)
class GuardSpec:
    """``guard`` of the configuration.

    Attributes:
        mean: which mean of the clients' updates is taken; see `fedrac.aggregation.robust`.
        hostile: how many clients of a cohort `trimmed_mean` and `krum` withstand.
        clip: bound on the length of a client's update, as `fedrac.aggregation.update_vectors` measures it: a longer
            one is shortened; None: no bound.
        clip_quantile: the bound starts at ``clip`` and then follows this quantile of the clients' lengths (Andrew et
            al., "Differentially private learning with adaptive clipping", 2021); None: it stays.
        noise: standard deviation of the Gaussian noise on the mean, in units of bound / cohort size; 0: none.
        delta: the privacy spent is told as epsilon at this delta.
        noise_seed: of noise and cohorts; None: drawn from the operating system, and kept with the checkpoints. Clients
            know the run's ``seed``, and must not know this one.

    Raises:
        ValueError: a value is out of its range, or needs another one.
    """

    mean: Mean = "mean"
    hostile: int = 1
    clip: float | None = None
    clip_quantile: float | None = None
    noise: float = 0.0
    delta: float = 1e-5
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        if self.hostile < 1:
            raise ValueError(f"guard.hostile={self.hostile} must be at least 1 (guard.mean=mean withstands none)")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"guard.clip={self.clip} must be positive and finite, or null")
        for name, value in (("clip_quantile", self.clip_quantile), ("delta", self.delta)):
            if value is not None and not 0 < value < 1:
                raise ValueError(f"guard.{name}={value} must lie between 0 and 1")
        if self.clip_quantile is not None and self.clip is None:
            raise ValueError(f"guard.clip_quantile={self.clip_quantile} needs guard.clip, where the bound starts")
        if self.noise and not 1 / _MOST_NOISE <= self.noise <= _MOST_NOISE:
            raise ValueError(
                f"guard.noise={self.noise} must be 0, or lie in [{1 / _MOST_NOISE:g}, {_MOST_NOISE:g}]: less protects "
                "nobody, more leaves nothing to learn"
            )
        self._check_noise()

    def _check_noise(self) -> None:
        if self.noise_seed is not None and not self.noise_seed >= 0:
            raise ValueError(f"guard.noise_seed={self.noise_seed} must not be negative")
        if self.noise and self.clip is None:
            raise ValueError(f"guard.noise={self.noise} needs guard.clip: without a bound noise protects nobody")
        if self.noise and self.mean != "mean":
            raise ValueError(
                f"guard.noise={self.noise} needs guard.mean=mean: how far one client can move the {self.mean} is not "
                "known"
            )

    @property
    def active(self) -> bool:
        """Whether anything is to be done."""
        return self.mean != "mean" or self.clip is not None

    def check(self, method: Method, weighting: str, clients: int, selection: SelectionSpec) -> None:
        """Whether it fits the rest of the run; ``clients`` is the least number that may answer in a round.

        Raises:
            ValueError: it does not; or noise is wanted, and the package that accounts for privacy is not installed.
        """
        check(self.mean, self.hostile, clients)
        if self.active and method.average == "products":
            raise ValueError(
                f"guard.mean={self.mean}, guard.clip={self.clip} with method.average=products: a client's factors say "
                "nothing about its product one by one; choose a method that averages factors"
            )
        if self.active and method.has_own("mean"):
            raise ValueError(
                f"guard.mean={self.mean}, guard.clip={self.clip}: method {method.name} has a mean of its own; set "
                "guard.mean=mean guard.clip=null"
            )
        if weighting != "uniform" and self.active:
            raise ValueError(
                f"server.weighting={weighting} with guard.mean={self.mean}, guard.clip={self.clip}: a client could "
                "give itself any weight; set server.weighting=uniform"
            )
        if selection.rule != "uniform" and self.active:
            raise ValueError(
                f"cohort.selection={selection.rule} with guard.mean={self.mean}, guard.clip={self.clip}: a client "
                "could have itself drawn as often as it likes; set cohort.selection=uniform"
            )
        if self.noise and not selection.is_uniform:
            raise ValueError(
                f"cohort.available={selection.available} with guard.noise={self.noise}: the privacy that is spent is "
                "known of cohorts that are drawn from all clients; set cohort.available=null"
            )
        if self.noise:
            privacy.require()


@dataclass(frozen=True)
class Guarded:
    """What became of a round's updates.

    Attributes:
        means: by `Block.key`, float64, what the server's step takes.
        state: for the next round.
        facts: for the record: the clients' median length, the bound, the share of clients beyond it, privacy spent.
    """

    means: Mapping[str, Tensor]
    state: GuardState
    facts: Mapping[str, float]


def begin(spec: GuardSpec, state: GuardState) -> GuardState:
    """The state before a round: with a secret, if noise needs one, and a bound."""
    wanted = spec.noise > 0 and spec.noise_seed is None and state.secret is None
    secret = privacy.new_secret() if wanted else state.secret
    return replace(state, secret=secret, clip=None if spec.clip_quantile is None else state.clip or spec.clip)


def secret_of(spec: GuardSpec, state: GuardState) -> int | None:
    """The seed of noise and cohorts; None where there is no noise, and cohorts follow from the run's seed."""
    if not spec.noise:
        return None
    return state.secret if spec.noise_seed is None else spec.noise_seed


def guard(
    spec: GuardSpec,
    state: GuardState,
    space: UpdateVectors,
    stacked: Mapping[str, Tensor],
    weights: NDArray[np.float64],
    round_: int,
    cohort: int,
    population: int,
) -> Guarded:
    """The guarded mean of a round.

    Args:
        spec: what is to be done.
        state: from `begin`.
        space: in which updates are measured.
        stacked: by `Block.key`, (C, ...), finite, in order of client id.
        weights: (C,), summing to 1; only the plain mean takes them.
        round_: from 1.
        cohort: how many clients were asked; with noise, one that did not answer counts as an update of zero, so that
            leaving out is no louder than any other answer.
        population: of which the cohort was drawn.
    """
    rows = space.rows(stacked)
    found = lengths(rows)
    facts = {"guard/length": float(found.median())}
    bound = spec.clip if state.clip is None else state.clip
    if bound is not None:
        rows = rows * (bound / found.clamp(min=bound)).unsqueeze(1)
        within = int((found <= bound).sum())
        facts |= {"guard/clip": bound, "guard/clipped": 1.0 - within / len(rows)}
        state = replace(state, clip=_adapted(spec, state, bound, within, round_, cohort if spec.noise else len(rows)))
    if spec.noise:
        assert bound is not None
        secret = secret_of(spec, state)
        assert secret is not None
        noise = privacy.normal(secret, "noise", round_, rows.shape[1])
        row = (total(rows) + spec.noise * bound * noise) / cohort
        state = replace(state, spent=privacy.spend(state.spent, cohort, population, _multipliers(spec)))
        facts |= {"privacy/epsilon": privacy.epsilon(state.spent, spec.delta, round_), "privacy/delta": spec.delta}
    elif spec.mean == "mean":
        row = total(torch.from_numpy(weights).unsqueeze(1) * rows)
    else:
        row = robust_mean(rows, spec.mean, spec.hostile)
    return Guarded(space.factors(row), state, facts)


def _multipliers(spec: GuardSpec) -> list[float]:
    """Noise over sensitivity of all that a round tells, if one client is replaced by another."""
    update = spec.noise / 2  # the sum moves by two bounds
    return [update] if spec.clip_quantile is None else [update, _count_noise(spec)]


def _count_noise(spec: GuardSpec) -> float:
    """On the count of clients within the bound, which moves by one: five times that of the mean, so it costs 2 %."""
    return 5 * spec.noise / 2


def _adapted(spec: GuardSpec, state: GuardState, bound: float, within: int, round_: int, clients: int) -> float | None:
    """The next round's bound; None if it does not adapt."""
    if spec.clip_quantile is None:
        return None
    count = float(within)
    if spec.noise:
        secret = secret_of(spec, state)
        assert secret is not None
        count += _count_noise(spec) * float(privacy.normal(secret, "count", round_, 1))
    return bound * math.exp(-_RATE * (count / clients - spec.clip_quantile))
