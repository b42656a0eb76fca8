"""What a run carries from one round to the next; checkpoints keep it, and a run goes on from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Spent:
    """Rounds that cost the same.

    Attributes:
        cohort, population: clients a round, and clients in all.
        multiplier: standard deviation of the noise over the sensitivity.
        rounds: how many there were.
    """

    cohort: int
    population: int
    multiplier: float
    rounds: int


@dataclass(frozen=True)
class GuardState:
    """What the guard carries from round to round; kept with the checkpoints.

    Attributes:
        clip: the bound of the next round, where it adapts.
        secret: the seed of noise and cohorts, where the system drew it.
        spent: rounds with noise so far.
    """

    clip: float | None = None
    secret: int | None = None
    spent: tuple[Spent, ...] = ()


@dataclass(frozen=True)
class ServerState:
    """Where a run stands.

    Attributes:
        round: the last finished round; 0 before the first.
        weights: all parameters and buffers of the model, by name; carried factors are not part of them.
        factors: by `Block.key`, the factors that a method without merging carries on; empty for the others.
        guard: what clipping and noise carry on.
        basis: by `Block.key`, the sides of two-sided blocks that are fixed for the run: A (k0, n), B (m, p).
        moments: of the server's optimizer, by what they belong to: ``w/m`` and ``w/v`` of a weight w or of a carried
            factor, in its shape. What is missing has its first value.
        clients: by client that is simulated here, the factors that stay with it, by `Block.key`; of who has not trained
            yet there is nothing. No part of what nodes are sent, nor of a digest.
        ranks: by client whose rank has become lower (`Method.ranks_after`), what it is now; the server alone has it.
        mean: by name in the state dict, of what is trained: the mean of the models after each round
            (`fedrac.algorithm.iterates`); empty where none is taken. The server alone has it.
    """

    round: int
    weights: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]
    guard: GuardState = field(default_factory=GuardState)
    basis: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    clients: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    mean: Mapping[str, Tensor] = field(default_factory=dict)
    ranks: Mapping[int, int] = field(default_factory=dict)
