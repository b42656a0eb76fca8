"""The server's part of Algorithm 2 (Fed-RAC-LoRA, arXiv 2410.08305): draw a cohort, average, step.

Pure functions over a frozen state. Weights and factors are CPU tensors in the master dtype (float32 or float64).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm import returned
from fedrac.algorithm.blocks import Block
from fedrac.algorithm.means import Cohort, Shares
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.selection import SelectionSpec
from fedrac.algorithm.simulated_time import SystemSpec
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.state import ServerState

Weighting = Literal["uniform", "examples"]

Room = Callable[[Tensor], Tensor]

_MOST_CLIENTS = 2**31
_ENTRIES = 2**18  # of a matrix that are worked on at once: they stay in a core's cache


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


def product(b: Tensor, a: Tensor) -> Tensor:
    """``B A`` (..., m, n) as a sum of r outer products, in order, multiply and add apart: the same on every machine.

    Some rows at a time, so that the sums stay in a core's cache.
    """
    total = b.new_zeros(*b.shape[:-1], a.shape[-1])
    blocks = _row_blocks(total)
    outer = torch.empty_like(total[..., blocks[0], :]) if blocks else total
    for rows in blocks:
        part, left = total[..., rows, :], b[..., rows, :]
        for j in range(a.shape[-2]):
            part += torch.mul(left[..., j, None], a[..., None, j, :], out=outer[..., : part.shape[-2], :])
    return total


def plus_product(w: Tensor, b: Tensor, a: Tensor, scale: float, room: Room = torch.empty_like) -> Tensor:
    """``W + scale * B A`` (..., m, n), some rows at a time: there is never another matrix as large as W.

    It has the bits of ``w + scale * product(b, a)``.

    Args:
        room: makes the empty tensor that it is written into, like a given one.
    """
    found = room(w)
    for rows in _row_blocks(w):
        torch.add(w[..., rows, :], product(b[..., rows, :], a).mul_(scale), out=found[..., rows, :])
    return found


def _row_blocks(matrix: Tensor) -> list[slice]:
    """Some rows each of a matrix, or of all of a stack (..., m, n)."""
    m = matrix.shape[-2]
    step = max(_ENTRIES * m // max(matrix.numel(), 1), 1)
    return [slice(start, start + step) for start in range(0, m, step)]


def effective_weights(state: ServerState, blocks: Sequence[Block], sketches: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model as it predicts: the weights, with carried factors merged into a copy.

    Args:
        state: where the run stands.
        blocks: what is trained.
        sketches: by `Block.sketch_key`, those that the carried factors belong to: (m, r) left, (r, n) right.

    Returns:
        By name in the state dict, in the master dtype.
    """
    weights = dict(state.weights)
    for block in blocks if state.factors else ():
        if block.rank is not None:
            w = weights[block.name]
            weights[block.name] = _plus_pair(block, sketches, state.factors, w, block.scale)
    return _tie(weights, blocks)


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


def round_means(
    state: ServerState, blocks: Sequence[Block], method: RoundMethod, stacked: Mapping[str, Tensor], cohort: Cohort
) -> dict[str, Tensor]:
    """All that the next state needs of the clients' factors, in the master dtype; see `mean_shapes`.

    Args:
        stacked: by `Block.key`, (C, ...), what the clients found, in order of client id.
        cohort: the clients.

    Raises:
        ValueError: a mean of the method's own is not what is due.
    """
    found: dict[str, Tensor] = {}
    if method.method.has_own("mean"):
        cohort = replace(cohort, lengths=_lengths(state.factors, stacked))
    for block in blocks:
        mine = {x: stacked[block.key(x)] for x in block.sent_letters(method)}
        if not mine:
            continue
        due = {x: _mean_shape(block, x) for x in mean_letters(block, method)}
        start = {x: state.factors[block.key(x)] for x in mine if block.key(x) in state.factors}
        means = method.method.mean(mine, replace(cohort, start=start))
        means = returned.of_mean(method.method, block.name, means, due)
        found |= {block.key(x): mean.to(state.weights[block.name].dtype) for x, mean in means.items()}
    return found


def _lengths(carried: Mapping[str, Tensor], stacked: Mapping[str, Tensor]) -> Shares:
    """Squared lengths (C,) of what clients found, less what was carried on."""
    moved = [value.double() - carried.get(key, torch.zeros(())).double() for key, value in sorted(stacked.items())]
    return np.asarray(sum(each.flatten(1).square().sum(1) for each in moved), dtype=np.float64)


def mean_letters(block: Block, method: RoundMethod) -> tuple[str, ...]:
    """Of what a round takes the mean: each trained factor; the product ``BA``, if products are averaged."""
    letters = block.sent_letters(method)
    if method.average == "factors" or block.rank is None:
        return letters
    return ("BA",) if method.merge else (*letters, "BA")


def mean_shapes(blocks: Sequence[Block], method: RoundMethod) -> dict[str, tuple[int, ...]]:
    """Key and shape of every mean that makes up a round: what a host needs to make the server's step itself."""
    return {b.key(x): _mean_shape(b, x) for b in blocks for x in mean_letters(b, method)}


def _mean_shape(block: Block, letters: str) -> tuple[int, ...]:
    return (*block.stacked, block.m, block.n) if letters == "BA" else block.factor_shape(letters)


def advance(
    state: ServerState,
    blocks: Sequence[Block],
    method: RoundMethod,
    sketches: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
    eta: float,
    room: Room = torch.empty_like,
) -> ServerState:
    """The server step, ``W + eta' s B_S A_bar`` for the paper's method, ``W + eta' s L Z_bar R`` for a two-sided one,
    and what the others do in its place.

    It has the same bits wherever it is made.

    Args:
        method: what it does in this round.
        sketches: by `Block.sketch_key`, those of this round: (m, r) left, (r, n) right.
        means: by `Block.key`, as `round_means` gives them.
        eta: the server's step eta' of this round.
        room: makes an empty tensor like a given one, for a merged matrix.

    Returns:
        The state after the round.

    Raises:
        ValueError: a step of the method's own is not what is due.
    """
    merged, carried, moments = dict(state.weights), dict(state.factors), dict(state.moments)
    plain = method.method.steps_plainly

    def step(key: str, update: Tensor, scale: float = 1.0) -> Tensor:
        """How far the server goes, of a mean update ``scale * update``."""
        if plain:
            return (eta * scale) * update
        update = scale * update
        found, after = returned.of_step(method.method, key, method.method.step(key, update, state.moments), update)
        moments.update(after)
        return eta * found

    for block in blocks:
        w = merged[block.name]
        mine = {block.key(letters): means[block.key(letters)] for letters in mean_letters(block, method)}
        for letter in [x for x in mean_letters(block, method) if x.endswith("c")]:
            key = block.key(letter.removesuffix("c"))
            change = mine.pop(block.key(letter))
            moments[f"{key}/c"] = state.moments.get(f"{key}/c", torch.zeros_like(change)) + change
        if not mine:  # it stays with the clients
            continue
        if block.rank is None:
            merged[block.name] = w + step(block.name, mine[block.key("D")])
            continue
        after = {k: carried[k] + step(k, mean - carried[k]) for k, mean in mine.items() if k in carried}
        if method.average == "products" and plain:
            before = _pair_product(block, sketches, state.factors, w) if after else 0.0
            carry = _pair_product(block, sketches, after, w) - before if after else 0.0
            target = _merged(block, sketches, mine, w)
            merged[block.name] = w + block.scale * (eta * (target - before) - carry)
        elif method.merge and plain:
            merged[block.name] = _plus_pair(block, sketches, mine, w, eta * block.scale, room)
        elif method.merge:
            merged[block.name] = w + step(block.name, _merged(block, sketches, mine, w), block.scale)
        carried.update(after)
    return replace(state, round=state.round + 1, weights=_tie(merged, blocks), factors=carried, moments=moments)


def _merged(block: Block, sketches: Mapping[str, Tensor], mine: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """The mean of the clients' products, in the shape of the weight: of their factors, or as it is."""
    mean = mine.get(block.key("BA"))
    return _pair_product(block, sketches, mine, like) if mean is None else mean.reshape(like.shape)


def _tie(weights: dict[str, Tensor], blocks: Sequence[Block]) -> dict[str, Tensor]:
    """A state dict names a tied parameter more than once; all names get the block's value."""
    for block in blocks:
        aliases = [name for name in block.names if name in weights and name != block.name]
        weights.update(dict.fromkeys(aliases, weights[block.name]))
    return weights


def _pair_product(block: Block, sketches: Mapping[str, Tensor], factors: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """``B A`` or ``B Z A`` of a block in the shape and dtype of its weight; what is not trained is the sketch."""
    return product(*_pair(block, sketches, factors, like)).reshape(like.shape)


def _plus_pair(
    block: Block,
    sketches: Mapping[str, Tensor],
    factors: Mapping[str, Tensor],
    w: Tensor,
    scale: float,
    room: Room = torch.empty_like,
) -> Tensor:
    """``W + scale * B A`` of a block, in the shape of W."""
    return plus_product(block.matrix(w), *_pair(block, sketches, factors, w), scale, room).reshape(w.shape)


def _pair(
    block: Block, sketches: Mapping[str, Tensor], factors: Mapping[str, Tensor], like: Tensor
) -> tuple[Tensor, Tensor]:
    """B, and A or ``Z A``; what is not trained is the sketch."""
    b, a = (factors.get(block.key(x), sketches.get(block.sketch_key(x))) for x in "BA")
    assert a is not None and b is not None
    a = a.to(like.dtype)
    if block.columns is not None:
        a = product(factors[block.key("Z")].to(like.dtype), a)
    return b.to(like.dtype), a
