"""The server of Algorithm 2 (Fed-RAC-LoRA, arXiv 2410.08305): its settings, and the state that it begins with.

What it makes of a round are pure functions over a frozen state: `fedrac.algorithm.round_means`, and then
`fedrac.algorithm.server_step`. Weights and factors are CPU tensors in the master dtype (float32 or float64).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.means import Shares
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.selection import SelectionSpec
from fedrac.algorithm.simulated_time import SystemSpec
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.state import ServerState

Weighting = Literal["uniform", "examples"]

_MOST_CLIENTS = 2**31


@dataclass(frozen=True)
class ServerSpec:
    """How the server samples and steps.

    Attributes:
        cohort_size: clients per round, C.
        min_fraction: the least share of the cohort that must have answered well for a round to count.
        weighting: ``uniform`` (the plain mean of Algorithm 2) or ``examples``.
        eta: the server's step eta', dimensionless; 1 makes the new model the mean of the clients' models.
        schedule: of ``eta`` over rounds.
        average: the power p of the mean of the rounds' models (`fedrac.algorithm.iterates`), which the run then
            predicts with. None: it predicts with the last one.
        selection: how a cohort is drawn.
        system: how long clients take, in simulated time, and until when they are waited for.

    Raises:
        ValueError: a value is out of its range.
    """

    cohort_size: int = 10
    min_fraction: float = 1.0
    weighting: Weighting = "uniform"
    eta: float = 1.0
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    average: float | None = None
    selection: SelectionSpec = field(default_factory=SelectionSpec)
    system: SystemSpec = field(default_factory=SystemSpec)

    def __post_init__(self) -> None:
        if not 1 <= self.cohort_size <= _MOST_CLIENTS:
            raise ValueError(f"cohort.size={self.cohort_size} must be at least 1, and at most {_MOST_CLIENTS}")
        if not 0 < self.min_fraction <= 1:
            raise ValueError(f"cohort.min_fraction={self.min_fraction} must lie in (0, 1]")
        if self.weighting not in ("uniform", "examples"):
            raise ValueError(f"server.weighting={self.weighting!r} is unknown: choose uniform or examples")
        if not 0 < self.eta < math.inf:
            raise ValueError(f"server.eta={self.eta} must be positive and finite")
        if self.average is not None and not 0 <= self.average < math.inf:
            raise ValueError(f"server.average={self.average} must be 0 or more, and finite; null: no mean")

    @property
    def least_clients(self) -> int:
        """The least number of good answers with which a round counts."""
        near = math.ceil(self.cohort_size * self.min_fraction)  # up to rounding
        return next(n for n in range(max(near - 1, 1), near + 2) if n / self.cohort_size >= self.min_fraction)


def initial_state(
    weights: Mapping[str, Tensor],
    blocks: Sequence[Block],
    method: Method,
    spec: SketchSpec,
    basis: Mapping[str, Tensor] | None = None,
) -> ServerState:
    """The state before round 1.

    Args:
        weights: the model's state dict, in the master dtype; adapted ones are (m, ...).
        blocks: what is trained.
        method: if it does not merge, the state has its factors, A (r, n) and B (m, r), as round 1 finds them.
        spec: of the random factor.
        basis: by `Block.key`, what of the sketches is fixed for the run.
    """
    fixed = {key: value.to(weights[key.rpartition(":")[0]].dtype) for key, value in (basis or {}).items()}
    if method.merge:
        return ServerState(0, dict(weights), {}, basis=fixed)
    adapted = [b for b in blocks if b.rank is not None]
    sketches = draw_sketches(adapted, method, spec, 1, fixed).values
    master = next(iter(weights[b.name].dtype for b in blocks))
    first = method.at(1)
    if len({(at.train, at.side) for at in map(method.at, range(1, method.period + 1))}) > 1:  # each in its turn
        first = replace(first, train="both")
    carried = start_of_round(adapted, first, sketches, {}, master, precondition=False).trained
    return ServerState(0, dict(weights), carried, basis=fixed)


def shares(examples: Sequence[int], weighting: Weighting) -> Shares:
    """(C,) float64, summing to 1: equal, or in proportion to the clients' numbers of examples."""
    counts = np.ones(len(examples)) if weighting == "uniform" else np.asarray(examples, dtype=np.float64)
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def of_client(state: ServerState, blocks: Sequence[Block], own: Mapping[str, Tensor]) -> ServerState:
    """The state as a client has it: with the factors, by `Block.key`, that stay with it."""
    weights, factors = dict(state.weights), dict(state.factors)
    for block in blocks:
        for letter in "ABZD":
            if (value := own.get(block.key(letter))) is None:
                continue
            if letter == "D":
                weights[block.name] = weights[block.name] + value.to(weights[block.name].dtype)
            else:
                factors[block.key(letter)] = value.to(factors[block.key(letter)].dtype)
    return replace(state, weights=weights, factors=factors)
