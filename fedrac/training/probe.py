"""Before any training: is what a client gets in a cohort what it would get alone?

A small cohort of clients with unequal mini-batches, and trained factors that are not zero, takes one step in the way in
which the run would; losses and gradients of every client are compared with `fedrac.training.alone`.
"""

import logging
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.round_start import Start
from fedrac.algorithm.streams import Stream, uniform
from fedrac.training import alone, plain, units
from fedrac.training.adapter import CohortAdapter
from fedrac.training.dropout import ClientDropout, no_global_draws
from fedrac.training.evaluation import call
from fedrac.training.layout import Layout
from fedrac.training.memory import Kept, most_tokens
from fedrac.training.passes import MOST, passes
from fedrac.training.setup import Shard, TrainingSetup
from fedrac.training.watch import Seen, watch
from fedrac.training.way import NotTogether, Refused, Way

log = logging.getLogger(__name__)

_SIZES = (4, 3, 2)  # rows of the mini-batches
_PASSES = (5, 3)  # rows of the passes that are watched
_TRIES = 6  # modules that may turn out to need each client's own weights


def find_way(problem: TrainingSetup, start: Start, shards: Sequence[Shard], seed: int) -> Way:
    """How a cohort of clients like ``shards`` can be trained.

    Raises:
        Refused: the model changes its own weights or statistics while it computes.
        Exception: what the model raises on the rows of one client alone.
    """
    probe = _Probe(problem, start, shards, seed)
    with _unchanged(problem.model, problem.blocks):
        way = probe.way()
    if probe.unused:
        names = dict.fromkeys(probe.names[key] for key in start.trained if key in probe.unused)
        log.warning("the model does not use what is trained of it, and it will not move: %s", ", ".join(names))
    if way.alone is not None:
        log.warning("the clients are trained one at a time, which takes longer: %s", way.alone)
    return way


@dataclass(frozen=True)
class _Found:
    """Losses of the real rows, and gradients by `Block.key`, of one client."""

    losses: Tensor
    gradients: Mapping[str, Tensor]


class _Probe:
    def __init__(self, problem: TrainingSetup, start: Start, shards: Sequence[Shard], seed: int) -> None:
        self.problem, self.start, self.seed = problem, start, seed
        self.device = next(problem.model.parameters()).device
        rows = torch.cat([s.index[: sum(_SIZES)] for s in shards[: sum(_SIZES)]])
        rows = rows[torch.linspace(0, len(rows) - 1, sum(_SIZES)).long()]  # of different clients, where there are some
        self.index = list(torch.split(rows, list(_SIZES)))
        self.trained = _away_from_zero(problem, start, seed, self.device)
        self.unused = set(start.trained)
        self.most = MOST  # tokens of a pass
        self.names = {
            key: next(b.name for b in problem.blocks if b.name == key.rpartition(":")[0]) for key in start.trained
        }

    def way(self) -> Way:
        """Found by trying: from the fastest on."""
        try:
            expected, drops = self._alone()
        except NotTogether as error:
            return Way(alone=str(error))
        seen = self._watched()
        way = replace(units.plan(self.problem.model, self.problem.blocks, seen), drops=drops)
        for _ in range(_TRIES):
            if way.alone is not None:
                return way
            try:
                found, learnt = self._together(way)
            except Exception as error:
                log.debug("%s cannot be trained in this way", way, exc_info=True)
                way = self._widened(way, seen, error)
                continue
            way = learnt
            worst = self._difference(found, expected, seen)
            if not worst:
                return self._plain(way, expected, seen)
            if self.problem.lengths is not None and way.drops and not way.padded:
                way = replace(way, padded=True)
                continue
            if (wider := units.enclose_shared(self.problem.model, way, seen)) == way:
                return way.one_at_a_time(worst)
            way = wider
        return way.one_at_a_time("too many of its modules compute across the rows of a batch")

    def _plain(self, way: Way, expected: Sequence[_Found], seen: Seen) -> Way:
        """The same with gradients that are written out, where they can be."""
        if way.drops:
            return way
        table, _, weight = self._table()
        inputs, targets = self.problem.take(table.flatten())
        with no_global_draws(self.device):
            layers = plain.layers_of(self.problem.model, inputs)
        covered = {name for layer in layers if layer.kind == "linear" for name in (layer.weight, layer.bias)}
        if not {name for block in self.problem.blocks for name in block.names} <= covered:
            return way
        network = self.problem.network(replace(way, plain=layers), list(self.trained))
        network.use({**self.start.frozen, **self.trained}, *table.shape)
        losses, gradients = network.gradients(self.problem.loss_gradient, inputs, targets, weight.to(self.device))
        found = self._by_client(losses.view(table.shape), dict(zip(self.trained, gradients, strict=True)))
        return way if self._difference(found, expected, seen) else replace(way, plain=layers)

    # --- the passes ---------------------------------------------------------------------------------------------

    def _dropout(self, clients: Sequence[int]) -> ClientDropout:
        return ClientDropout(self.seed, 0, clients, self.device)

    def _alone(self) -> tuple[list[_Found], bool]:
        """Every client by itself, and whether the model drops anything."""
        found, drops = [], False
        for place, index in enumerate(self.index):
            dropout = self._dropout([place])
            dropout.start(0, Layout(1, len(index)))
            own = {key: value[place].detach().requires_grad_() for key, value in self.trained.items()}
            with no_global_draws(self.device), dropout, Kept(self.problem.model) as kept:
                losses, gradients = alone.gradients(self.problem, self.start.frozen, own, index)
            if self.problem.lengths is not None:
                tokens = len(index) * int(self.problem.lengths[index].max())
                self.most = min(self.most, most_tokens(kept.bytes / tokens, self.device))
            drops = drops or dropout.used
            self.unused &= {key for key, g in zip(own, gradients, strict=True) if g is None}
            filled = [torch.zeros_like(v) if g is None else g for v, g in zip(own.values(), gradients, strict=True)]
            found.append(_Found(losses, dict(zip(own, filled, strict=True))))
        return found, drops

    def _watched(self) -> Seen:
        inputs, _ = self.problem.take(torch.cat(self.index)[: max(_PASSES)])

        def run(rows: int) -> object:
            dropout = self._dropout([0])
            dropout.start(0, Layout(1, rows))
            with dropout:
                return call(self.problem.model, tree_map(lambda x: x[:rows], inputs))

        return watch(self.problem.model, self.problem.blocks, {rows: partial(run, rows) for rows in _PASSES})

    def _together(self, way: Way) -> tuple[list[_Found], Way]:
        """All clients in one cohort, short mini-batches filled up as in training, and what was learnt of the way."""
        table, real, weight = self._table()
        dropout = self._dropout(range(len(self.index)))
        adapter = CohortAdapter(self.problem.model, self.problem.blocks, way, dropout)
        own = {key: value.detach().requires_grad_() for key, value in self.trained.items()}
        total, losses, kept, tokens = [torch.zeros_like(v) for v in own.values()], torch.zeros(table.numel()), 0, 0
        with adapter.attached(), no_global_draws(self.device):
            for each in passes(table, real, None if way.padded else self.problem.lengths, self.most):
                adapter.use({**self.start.frozen, **own}, each.layout.to(self.device))
                dropout.start(0, each.layout.to(self.device))
                inputs, targets = self.problem.take(table.flatten()[each.at])
                with dropout, Kept(self.problem.model) as found:
                    loss = self.problem.loss(call(self.problem.model, inputs), targets).flatten()
                mean = torch.dot(loss, weight[each.at].to(loss))
                gradients = torch.autograd.grad(mean, list(own.values()), allow_unused=True)
                total = [t if g is None else t + g for t, g in zip(total, gradients, strict=True)]
                losses = losses.to(loss).index_copy(0, each.at.to(self.device), loss.detach())
                kept, tokens = kept + found.bytes, tokens + each.tokens
        way = replace(way.looping(frozenset(adapter.units.looped)), drops=dropout.used, kept=kept / tokens)
        return self._by_client(losses.view(table.shape), dict(zip(own, total, strict=True))), way

    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (C, b), which of them are real, and their weights (C * b,): short mini-batches are filled up."""
        table = torch.nn.utils.rnn.pad_sequence(self.index, batch_first=True)
        real = torch.stack([torch.arange(table.shape[1]) < len(index) for index in self.index])
        return torch.where(real, table, table[:, :1]), real, (real / real.sum(1, keepdim=True)).flatten()

    def _by_client(self, losses: Tensor, gradients: Mapping[str, Tensor]) -> list[_Found]:
        return [
            _Found(losses[c, : len(index)], {key: g[c] for key, g in gradients.items()})
            for c, index in enumerate(self.index)
        ]

    # --- what they say ------------------------------------------------------------------------------------------

    def _widened(self, way: Way, seen: Seen, error: Exception) -> Way:
        path = _where(self.problem.model, error)
        why = f"{path or 'the model'!r} does not take the rows of several clients: {error}"
        return units.widen(self.problem.model, way, self.problem.blocks, seen, path, why)

    def _difference(self, found: Sequence[_Found], expected: Sequence[_Found], seen: Seen) -> str | None:
        """What to say of the largest difference, if it is more than rounding."""
        dtypes = {value.dtype for value in self.problem.model.parameters()} | seen.dtypes
        eps = max(torch.finfo(d).eps for d in dtypes if d.is_floating_point)
        tolerance, of_losses = 4 * eps**0.5, 4 * eps**0.7  # gradients have kinks, and sums that cancel
        total = max(float(g.double().norm()) for e in expected for g in e.gradients.values())
        for one, other in zip(found, expected, strict=True):
            if (difference := _relative(one.losses, other.losses, 0.0)) > of_losses:
                return f"{_MIXES} losses differ by {difference:.1e} of their size"
            for key, gradient in other.gradients.items():
                if (difference := _relative(one.gradients[key], gradient, 0.01 * total)) > tolerance:
                    return f"{_MIXES} the gradient of {self.names[key]} differs by {difference:.1e} of its size"
        return None


_MIXES = (
    "the model mixes the rows of its batch, so that a client's result in a cohort is not what it is alone. A model is "
    "faster without batch statistics, with the batch as the first dimension (batch_first=True), and with a first "
    "dimension of 1 for what all rows share (position ids, say), and if it does not see how far a text is padded. What "
    "was seen:"
)


def _relative(found: Tensor, expected: Tensor, floor: float) -> float:
    """The length of the difference over that of the expected vector; 0 where neither is finite."""
    found, expected = found.double(), expected.double()
    if not torch.isfinite(expected).all():
        return 0.0
    length = max(float(expected.norm()), floor, torch.finfo(torch.float64).tiny)
    return float((found - expected).norm() / length)


def _away_from_zero(problem: TrainingSetup, start: Start, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Factors (clients, ...) of small updates: a tenth of the weights in size, another one for every client."""
    found = {}
    for block in problem.blocks:
        weight = problem.model.get_parameter(block.name)
        size = 0.1 * max(float(weight.detach().double().square().mean().sqrt()), 1e-2)
        for letter in "ABDZ":
            if (key := block.key(letter)) not in start.trained:
                continue
            value = start.trained[key]
            ranks = {"A": block.columns or block.rank, "B": block.rank}
            others = {x: start.frozen[block.key(x)] for x in "AB" if x != letter and block.key(x) in start.frozen}
            lengths = [_length(value, ranks[x]) for x, value in others.items()]
            scale = size / (block.scale * math.prod(lengths)) if lengths else size
            shape = (len(_SIZES), *value.shape)
            numbers = uniform(Stream(seed, "probe", key).words(int(np.prod(shape)))) - 0.5
            found[key] = (value.to(device) + 3.5 * scale * torch.from_numpy(numbers).reshape(shape).to(device)).to(
                value.dtype
            )
    return {key: found[key] for key in start.trained}


def _length(factor: Tensor, rank: int | None) -> float:
    """How much longer a product with ``factor`` makes entries, in the mean."""
    size: float = float(factor.double().square().mean().sqrt()) * float(rank or 1) ** 0.5
    return max(size, 1e-6)


def _where(model: nn.Module, error: Exception) -> str:
    """The innermost module of the model that was computing when it was raised."""
    paths, inner = {id(module): path for path, module in model.named_modules()}, ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        own: Any = frame.f_locals.get("self")
        own = frame.f_locals.get("module") if id(own) not in paths else own
        inner = paths.get(id(own), inner)
    return inner


@contextmanager
def _unchanged(model: nn.Module, blocks: Sequence[Block]) -> Iterator[None]:
    """What is trained, and what a model keeps of what it saw, must not be changed by computing.

    Clients that are trained in one process would share it.

    Raises:
        Refused: something has changed, on the way out. It is as before then.
    """
    kept, trained = dict(model.named_buffers()), {b.name: model.get_parameter(b.name) for b in blocks}
    buffers = {n: v for n, v in model.state_dict().items() if n in kept and v.is_floating_point()}
    before = {name: value.detach().clone() for name, value in {**buffers, **trained}.items()}
    yield
    after = model.state_dict()
    for name, value in before.items():
        if not torch.equal(after[name].nan_to_num(), value.nan_to_num()):
            with torch.no_grad():
                after[name].copy_(value)
            raise Refused(
                f"the model changes {name!r} whenever it computes in training mode, and clients that are trained in "
                "one process would share it: let its train() leave that module in evaluation mode, or remove it"
            )
