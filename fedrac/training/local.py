"""Local training of a whole cohort in lockstep.

Step k of every client is one forward and one backward pass over the cohort's mini-batches together. Each client gets
exactly what it would get alone: its loss is the mean over its own mini-batch, and a gradient never crosses the cohort
axis. Clients with more steps come first, so that those that have finished leave the batch from its end.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrac.algorithm.round_start import Start
from fedrac.training.adapter import CohortAdapter, MixedRows
from fedrac.training.dropout import ClientDropout, no_global_draws
from fedrac.training.evaluation import call
from fedrac.training.gradients import add_l2, clip_per_client, precondition
from fedrac.training.minibatches import Minibatches, Steps, chunks
from fedrac.training.optimizer import LocalSpec, StackedOptimizer
from fedrac.training.setup import Shard, TrainingSetup


@dataclass(frozen=True)
class CohortResult:
    """What the clients of a cohort found, in the order in which they were given.

    Attributes:
        factors: by `Block.key`, (C, ...) in the dtype of the start: each client's trained factors.
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
    factors = {k: torch.empty(len(shards), *v.shape, dtype=v.dtype) for k, v in start.trained.items()}
    losses = torch.empty(len(shards), dtype=torch.float64)
    with _local_mode(problem.model):
        for places in chunks([len(s) for s in shards], spec):
            chunk = _Lockstep(problem, start, [shards[p] for p in places], spec, seed, round_)
            chunk.run()
            at = torch.tensor(places)
            for key, value in chunk.factors.items():
                factors[key].index_copy_(0, at, value.to("cpu"))
            losses[at] = chunk.mean_losses()
    return CohortResult(factors, losses, torch.tensor([len(s) for s in shards]))


class _Lockstep:
    """One chunk of a cohort, from the first step to the last."""

    def __init__(
        self, problem: TrainingSetup, start: Start, shards: Sequence[Shard], spec: LocalSpec, seed: int, round_: int
    ) -> None:
        self.problem, self.start, self.spec, self.first = problem, start, spec, round_ == 1
        self.orders = Minibatches(shards, spec, seed, round_)
        self.adapter = CohortAdapter(problem.model, problem.blocks)
        self.device = next(problem.model.parameters()).device
        self.factors = {k: v.to(self.device).repeat(len(shards), *[1] * v.ndim) for k, v in start.trained.items()}
        self.optimizer = StackedOptimizer(self.factors, spec)
        self.loss_sums = torch.zeros(len(shards), dtype=torch.float64)
        self.dropout = ClientDropout(seed, round_, [s.client for s in shards], self.device)

    def run(self) -> None:
        with self.adapter.attached(), no_global_draws(self.device):
            for batch in self.orders.batches():
                losses = self._steps(batch)
                self.loss_sums[: batch.clients] += (losses * batch.real).sum((0, 2))

    def mean_losses(self) -> Tensor:
        return self.loss_sums / self.orders.examples_seen

    def _steps(self, batch: Steps) -> Tensor:
        """All steps of a batch; returns every row's loss, (S, k, b) float64."""
        parameters = self.optimizer.narrow(batch.clients)
        factors, rows = {**self.start.frozen, **parameters}, batch.index[0].numel()
        weight = batch.weight.flatten(1).to(self.device, next(iter(parameters.values())).dtype)
        self.adapter.use(factors, batch.clients, rows)
        losses, habits = [], self.problem.habits
        for step, (index, weights) in enumerate(zip(batch.index.flatten(1), weight, strict=True), batch.first):
            self.dropout.start(step, batch.clients, rows, batch.first + len(weight) - step)
            losses.append(self._step(step, *self.problem.take(index), weights, parameters))
            habits.dropout = self.dropout.used if habits.dropout is None else habits.dropout
        return torch.stack(losses).to("cpu", torch.float64).view(batch.index.shape)

    def _step(
        self, step: int, inputs: object, targets: Tensor, weight: Tensor, parameters: Mapping[str, Tensor]
    ) -> Tensor:
        loss = self.problem.loss(self._outputs(inputs), targets).flatten()
        if step == 0:
            self.adapter.check_all_used()
            if self.first:
                _check_independent(loss, list(parameters.values()))
        gradients = torch.autograd.grad(loss, list(parameters.values()), weight.to(loss.dtype))
        self.optimizer.step(self._shape(dict(zip(parameters, gradients, strict=True)), parameters))
        return loss.detach()

    def _outputs(self, inputs: object) -> Tensor:
        """The model's outputs. Watching its calls for dropout costs time: not if one step has shown none."""
        if self.problem.habits.dropout is False:
            return call(self.problem.model, inputs)
        unknown = self.problem.habits.dropout is None  # then draws are looked for at once, not at the end of the round
        with no_global_draws(self.device) if unknown else nullcontext(), self.dropout:
            return call(self.problem.model, inputs)

    @torch.no_grad()
    def _shape(self, gradients: dict[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient that the optimizer sees: L2 added, clipped per client, preconditioned."""
        if self.spec.l2:
            add_l2(gradients, {**self.start.frozen, **parameters}, self.problem, self.spec.l2)
        if self.spec.clip is not None:
            clip_per_client(gradients, self.spec.clip)
        if self.spec.precondition:
            precondition(gradients, self.problem.blocks, self.start.gram_inverse)
        return gradients


def _check_independent(losses: Tensor, factors: Sequence[Tensor]) -> None:
    """The first row's loss must not depend on other clients' factors. Asked once a run: it costs a backward pass."""
    gradients = torch.autograd.grad(losses[0], factors, retain_graph=True, allow_unused=True)
    if any(g is not None and bool(g[1:].any()) for g in gradients):
        raise MixedRows(
            "the model mixes the rows of its batch, so that one client's loss depends on another's factors: use no "
            "batch statistics, keep the batch as the first dimension of every adapted layer's input, and give an "
            "input that all rows share (position ids, say) a first dimension of 1"
        )


class _local_mode:
    """Training mode with batch statistics off: BatchNorm would mix the clients that share a batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.modes = [(module, module.training) for module in self.model.modules()]
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):  # InstanceNorm keeps running statistics, too
                module.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self.modes:
            module.training = training
