"""Local training of a whole cohort in lockstep.

Step k of every client is one forward and one backward pass over the cohort's mini-batches together. Each client gets
exactly what it would get alone: its loss is the mean over its own mini-batch, and a gradient never crosses the cohort
axis. Clients with more steps come first, so that those that have finished leave the batch from its end.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedrac.algorithm.round_start import Start
from fedrac.algorithm.streams import Stream
from fedrac.data.batch import sent
from fedrac.training import alone
from fedrac.training.adapter import CohortAdapter
from fedrac.training.bfloat16 import in_float32
from fedrac.training.differences import Differences
from fedrac.training.dropout import ClientDropout, no_global_draws
from fedrac.training.evaluation import call
from fedrac.training.gradients import add_l2, add_prox, clip_per_client, precondition
from fedrac.training.layout import Layout
from fedrac.training.memory import most_tokens
from fedrac.training.minibatches import Minibatches, Steps, chunks
from fedrac.training.optimizer import LocalSpec, StackedOptimizer
from fedrac.training.passes import MOST, passes
from fedrac.training.plain import is_fixed, layers_of
from fedrac.training.plain_network import PlainNetwork
from fedrac.training.probe import find_way
from fedrac.training.products import faster
from fedrac.training.setup import Shard, TrainingSetup
from fedrac.training.way import NotTogether, Way

log = logging.getLogger(__name__)

# Of the rows of a batch of steps (S, k, b), flattened: their places, and their losses where they were computed.
Losses = Sequence[tuple[Tensor | slice, Tensor]]


@dataclass(frozen=True)
class CohortResult:
    """What the clients of a cohort found, in the order in which they were given.

    Attributes:
        factors: by `Block.key`, (C, ...) in the dtype of the start: each client's trained factors; under
            ``KEY/control`` its new controls, where it has such.
        losses: (C,) float64, the mean of each client's training loss over the examples it saw.
        examples: (C,) int64, how many examples each client has.
    """

    factors: dict[str, Tensor]
    losses: Tensor
    examples: Tensor


def train_cohort(
    problem: TrainingSetup, start: Start, shards: Sequence[Shard], spec: LocalSpec, seed: int, round_: int
) -> CohortResult:
    """Trains every client of a cohort from the same start, for one round (Algorithm 2, the clients' part).

    Args:
        problem: model, blocks, loss and data.
        start: the sketches and the starting factors.
        shards: the cohort; all have at least one example.
        spec: optimizer, learning rate of this round, epochs, mini-batches.
        seed: the run's seed; orders come from its stream ``order/round/client``.
        round_: the round, from 1.

    Returns:
        Factors, losses and counts in the order of ``shards``.
    """
    trained = {**start.trained, **{f"{key}/control": value for key, value in start.shared.items()}}
    factors = {k: torch.empty(len(shards), *v.shape, dtype=v.dtype) for k, v in trained.items()}
    losses, sizes = torch.empty(len(shards), dtype=torch.float64), [len(s) for s in shards]
    with _local_mode(problem.model), in_float32(problem.model):
        most = spec.max_tokens or _most_tokens(problem, start, shards, sizes, spec, seed)
        for places in chunks(sizes, spec, most):
            chunk = _trained(problem, start, [shards[p] for p in places], spec, seed, round_, most)
            at = torch.tensor(places)
            for key, value in chunk.found().items():
                factors[key].index_copy_(0, at, value.to("cpu"))
            losses[at] = chunk.mean_losses()
    return CohortResult(factors, losses, torch.tensor(sizes))


def _most_tokens(
    problem: TrainingSetup, start: Start, shards: Sequence[Shard], sizes: Sequence[int], spec: LocalSpec, seed: int
) -> int:
    """How many tokens (rows, of what has no length) may go through the model together."""
    first = [shards[p] for p in chunks(sizes, spec, MOST)[0]]
    return most_tokens(_way(problem, start, first, seed).kept, next(problem.model.parameters()).device)


def _way(problem: TrainingSetup, start: Start, shards: Sequence[Shard], seed: int) -> Way:
    """How clients are trained in such a round; it is found once."""
    key, ways = frozenset(start.trained), problem.ways.found
    if key not in ways:
        ways[key] = find_way(problem, start, shards, seed)
    return ways[key]


def _trained(
    problem: TrainingSetup, start: Start, shards: Sequence[Shard], spec: LocalSpec, seed: int, round_: int, most: int
) -> "_Lockstep":
    """A chunk after its last step. Where the way that was found does not do for it, another one is looked for, once."""
    key, ways = frozenset(start.trained), problem.ways.found
    for again in (False, True):
        chunk = _Lockstep(problem, start, shards, spec, seed, round_, _way(problem, start, shards, seed), most)
        try:
            chunk.run()
            return chunk
        except NotTogether as error:
            log.debug("the way of training does not do", exc_info=True)
            if again:
                ways[key] = Way(alone=str(error))
            else:
                del ways[key]
    chunk = _Lockstep(problem, start, shards, spec, seed, round_, ways[key], most)
    chunk.run()
    return chunk


class _Lockstep:
    """One chunk of a cohort, from the first step to the last."""

    def __init__(
        self,
        problem: TrainingSetup,
        start: Start,
        shards: Sequence[Shard],
        spec: LocalSpec,
        seed: int,
        round_: int,
        way: Way,
        most: int,
    ) -> None:
        self.problem, self.start, self.spec, self.way, self.most = problem, start, spec, way, most
        self.seed, self.round, self.clients = seed, round_, [s.client for s in shards]
        self.device = next(problem.model.parameters()).device
        filled = bool(way.plain) and self.device.type == "cpu"
        self.orders = Minibatches(shards, spec, seed, round_, most, filled)
        self.factors = {k: v.to(self.device).repeat(len(shards), *[1] * v.ndim) for k, v in start.trained.items()}
        self.differences = Differences(problem, start, shards, self.factors)
        self.optimizer = StackedOptimizer(self.factors, spec)
        self.loss_sums = torch.zeros(len(shards), dtype=torch.float64)
        self.dropout = ClientDropout(seed, round_, self.clients, self.device)
        self.adapter = CohortAdapter(problem.model, problem.blocks, way, self.dropout)
        self.plain = problem.network(way, list(self.factors)) if way.plain else None

    def run(self) -> None:
        together = self._steps if self.problem.lengths is None or self.way.padded else self._steps_by_length
        steps = together if self.way.alone is None else self._steps_alone
        bare = self.way.alone is not None or self.plain is not None
        # Where neither model nor loss is somebody's own, nothing can have changed, and nothing draws.
        known = self.plain is not None and self.problem.gradient is not None and is_fixed(self.problem.model)
        with nullcontext() if bare else self._attached(), nullcontext() if known else no_global_draws(self.device):
            if not known:
                self._check_plain()
            self._sum_losses([(batch, steps(batch)) for batch in self.orders.batches()])
        if self.plain is not None:
            self.plain.release()

    def found(self) -> dict[str, Tensor]:
        """What the clients trained, and their new controls."""
        way = self.orders.steps.double() * self.spec.lr
        return {**self.factors, **self.differences.controls(self.factors, way)}

    def _check_plain(self) -> None:
        """A model may compute something else than it did before: other layers as it goes on, say, or a dropout."""
        some, _ = self.problem.take(self.orders.first) if self.plain is not None else (None, None)
        if self.plain is not None and layers_of(self.problem.model, some) != self.way.plain:
            raise NotTogether("the model has other layers than before")

    def _sum_losses(self, found: Sequence[tuple[Steps, Losses]]) -> None:
        """Of all steps at once: until then, nothing waits for the device."""
        losses = [each for _, of_batch in found for _, each in of_batch]
        whole = torch.cat(losses).to("cpu", torch.float64)
        parts = iter(torch.split(whole, [len(each) for each in losses]))
        for batch, of_batch in found:
            table = torch.zeros(batch.index.shape, dtype=torch.float64)
            for at, _ in of_batch:
                table.view(-1)[at] = next(parts)
            self.loss_sums[: batch.clients] += (table * batch.real).sum((0, 2))

    def mean_losses(self) -> Tensor:
        return self.loss_sums / self.orders.examples_seen

    def _steps(self, batch: Steps) -> Losses:
        """All steps of a batch."""
        parameters = self.optimizer.narrow(batch.clients)
        factors = {**self.start.frozen, **parameters}
        weight = sent(batch.weight.flatten(1).to(next(iter(parameters.values())).dtype), self.device)
        steps = zip(batch.index.flatten(1), weight, strict=True)
        if self.plain is not None:
            self.plain.use(factors, *batch.index.shape[1:])
            return [(slice(None), torch.cat([self._plain_step(self.plain, *step, parameters) for step in steps]))]
        layout, losses = Layout(batch.clients, batch.index[0].numel()), []
        self.adapter.use(factors, layout)
        for step, (index, weights) in enumerate(steps, batch.first):
            self.dropout.start(step, layout, batch.first + len(weight) - step)
            loss, gradients = self._gradients(*self.problem.take(index), weights, list(parameters.values()))
            self._move(gradients, parameters)
            losses.append(loss)
        return [(slice(None), torch.cat(losses))]

    def _plain_step(
        self, network: PlainNetwork, index: Tensor, weight: Tensor, parameters: Mapping[str, Tensor]
    ) -> Tensor:
        inputs, targets = self.problem.take(index)
        loss, gradients = network.gradients(self.problem.loss_gradient, inputs, targets, weight)
        self._move(gradients, parameters)
        return loss

    def _gradients(
        self, inputs: object, targets: Any, weight: Tensor, values: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses (rows,), and the gradients of their weighted sum."""
        loss = self.problem.loss(self._outputs(inputs), targets).flatten()
        found = torch.autograd.grad(loss, values, weight.to(loss.dtype), allow_unused=True)
        return loss.detach(), [torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True)]

    def _steps_by_length(self, batch: Steps) -> Losses:
        """The same, each step in passes of texts of about the same length; a row that is not real has no loss."""
        parameters, losses = self.optimizer.narrow(batch.clients), []
        factors, values = {**self.start.frozen, **parameters}, list(parameters.values())
        for place, step in enumerate(range(batch.first, batch.first + len(batch.index))):
            table, total = batch.index[place], list[Tensor]()
            weight = batch.weight[place].flatten().to(values[0].dtype)
            for each in passes(table, batch.real[place], self.problem.lengths, self.most):
                layout = each.layout.to(self.device)
                self.adapter.use(factors, layout)
                self.dropout.start(step, layout)
                batch_of = self.problem.take(table.flatten()[each.at])
                loss, gradients = self._gradients(*batch_of, sent(weight[each.at], self.device), values)
                total = [a.add_(b) for a, b in zip(total, gradients, strict=True)] if total else gradients
                losses.append((each.at + place * table.numel(), loss))
            self._move(total, parameters)
        return losses

    def _outputs(self, inputs: object) -> Tensor:
        """The model's outputs. Watching its calls for dropout costs time: not if the probe has shown none."""
        with self.dropout if self.way.drops else nullcontext():
            return call(self.problem.model, inputs)

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The model with the clients' updates. ``torch.vmap``, which units need, has PyTorch's own products only."""
        with self.adapter.attached(), nullcontext() if self.adapter.units.paths else faster(self.problem.model):
            yield

    def _steps_alone(self, batch: Steps) -> Losses:
        """The same, one client after another."""
        parameters, losses = self.optimizer.narrow(batch.clients), []
        for step, (index, real) in enumerate(zip(batch.index, batch.real, strict=True), batch.first):
            draws = [Stream(self.seed, "alone", self.round, c, step) for c in self.clients[: batch.clients]]
            found, gradients = alone.step(self.problem, self.start.frozen, parameters, index, real, draws)
            self._move(gradients, parameters)
            losses.append(found.flatten())
        return [(slice(None), torch.cat(losses))]

    def _move(self, gradients: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> None:
        self.optimizer.step(self._shape(dict(zip(parameters, gradients, strict=True)), parameters))

    @torch.no_grad()
    def _shape(self, gradients: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient that the optimizer sees: L2 and the proximal term added, clipped per client, preconditioned."""
        clients = len(next(iter(gradients.values())))
        if self.spec.l2:
            add_l2(gradients, {**self.start.frozen, **parameters}, self.problem, self.spec.l2)
        if self.start.prox:
            add_prox(gradients, parameters, self.differences.begin(clients), self.start.prox)
        self.differences.straighten(gradients, parameters)
        if self.spec.clip is not None:
            clip_per_client(gradients, self.spec.clip)
        if self.spec.precondition:
            precondition(gradients, self.problem.blocks, self.differences.gram_inverse(clients))
        return gradients


class _local_mode:
    """Training mode with batch statistics off: BatchNorm would mix the clients that share a batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.model.train()
        for module in self.model.modules():
            # InstanceNorm keeps running statistics, too, and spectral_norm the vectors of its power iteration.
            if isinstance(module, nn.modules.batchnorm._NormBase | parametrize.ParametrizationList):
                module.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.modes:
            module.training = training
