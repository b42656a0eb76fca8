"""Local training of a whole cohort in lockstep.

Step k of every client is one forward and one backward pass over the cohort's mini-batches together. Each client gets
exactly what it would get alone: its loss is the mean over its own mini-batch, and a gradient never crosses the cohort
axis. Clients with more steps come first, so that those that have finished leave the batch from its end.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrac.adapter import CohortAdapter
from fedrac.blocks import Block
from fedrac.dropout import ClientDropout, no_global_draws
from fedrac.gradients import add_l2, clip_per_client, precondition
from fedrac.optimizer import LocalSpec, StackedOptimizer
from fedrac.orders import Orders, chunks
from fedrac.rounds import Start

Loss = Callable[[Tensor, Tensor], Tensor]
Take = Callable[[Tensor], tuple[object, Tensor]]


@dataclass(frozen=True)
class Shard:
    """One client's part of the data.

    Attributes:
        client: its id.
        index: (examples,) int64, rows of the data that belong to it.
    """

    client: int
    index: Tensor


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


@dataclass(frozen=True)
class Problem:
    """What one cohort trains on.

    Attributes:
        model: holds the frozen weights.
        blocks: the trained parameters.
        loss: (outputs, targets) to one loss a row.
        take: (rows,) int64 to the model's inputs and the targets of those examples.
    """

    model: nn.Module
    blocks: Sequence[Block]
    loss: Loss
    take: Take


def train_cohort(
    problem: Problem, start: Start, shards: Sequence[Shard], spec: LocalSpec, seed: int, round_: int
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
        for places in chunks([len(s.index) for s in shards], spec):
            chunk = _Lockstep(problem, start, [shards[p] for p in places], spec, seed, round_)
            chunk.run()
            for key, value in chunk.factors.items():
                factors[key][places] = value.to("cpu")
            losses[places] = chunk.mean_losses()
    return CohortResult(factors, losses, torch.tensor([len(s.index) for s in shards]))


class _Lockstep:
    """One chunk of a cohort, from the first step to the last."""

    def __init__(
        self, problem: Problem, start: Start, shards: Sequence[Shard], spec: LocalSpec, seed: int, round_: int
    ) -> None:
        self.problem, self.start, self.spec, self.first = problem, start, spec, round_ == 1
        self.orders = Orders(shards, spec, seed, round_)
        self.adapter = CohortAdapter(problem.model, problem.blocks)
        self.device = next(problem.model.parameters()).device
        self.factors = {k: v.to(self.device).repeat(len(shards), *[1] * v.ndim) for k, v in start.trained.items()}
        self.optimizer = StackedOptimizer(self.factors, spec)
        self.loss_sums = torch.zeros(len(shards), dtype=torch.float64, device=self.device)
        self.dropout = ClientDropout(seed, round_, [s.client for s in shards], self.device)

    def run(self) -> None:
        with self.adapter.attached():
            for step in range(self.orders.steps):
                # Watching every call for dropout costs time: after one step it is known whether there is any.
                with self.dropout if step == 0 or self.dropout.used else nullcontext():
                    self._step(step)

    def mean_losses(self) -> Tensor:
        return self.loss_sums.cpu() / self.orders.examples_seen

    def _step(self, step: int) -> None:
        batch = self.orders.batch(step)
        parameters = self.optimizer.narrow(batch.clients)
        self.dropout.start(step, batch.clients, batch.index.numel())
        self.adapter.use({**self.start.frozen, **parameters}, batch.clients, batch.index.numel())
        inputs, targets = self.problem.take(batch.index.flatten())
        with no_global_draws(self.device) if step == 0 else nullcontext():
            rows = self.problem.loss(_call(self.problem.model, inputs), targets).reshape(batch.clients, -1)
        loss = (rows * batch.weight.to(rows)).sum(1)
        if step == 0:
            self.adapter.check_all_used()
            if self.first:
                _check_independent(loss, list(parameters.values()))
        self.loss_sums[: batch.clients] += loss.detach().double() * batch.counts.to(self.device)
        gradients = dict(zip(parameters, torch.autograd.grad(loss.sum(), list(parameters.values())), strict=True))
        self.optimizer.step(self._shape(gradients, parameters))

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


def _call(model: nn.Module, inputs: object) -> Tensor:
    out: Tensor = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    return out


def _check_independent(losses: Tensor, factors: Sequence[Tensor]) -> None:
    """The first client's loss must not depend on the others' factors. Asked once a run: it costs a backward pass."""
    if len(losses) == 1:
        return
    gradients = torch.autograd.grad(losses[0], factors, retain_graph=True, allow_unused=True)
    if any(g is not None and bool(g[1:].any()) for g in gradients):
        raise ValueError(
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
