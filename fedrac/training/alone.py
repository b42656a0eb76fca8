"""One client as plain PyTorch trains it: its own effective weights in the model, its own rows, nothing shared.

This is exact for whatever a model computes from its parameters. It is what a cohort is compared with before a run, and
how clients are trained where a model mixes the rows of its batch.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.streams import Stream
from fedrac.training.evaluation import call
from fedrac.training.setup import TrainingSetup


def effective(block: Block, weight: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """``W + s B A``, ``W + s B Z A`` or ``W + D``, (..., *shape) in the dtype of W; the axes before are those of the
    trained factors."""
    if block.rank is None or block.key("D") in factors:
        return weight + factors[block.key("D")].to(weight.dtype)
    a = factors[block.key("A")]
    a = a if block.columns is None else factors[block.key("Z")] @ a
    update: Tensor = block.scale * (factors[block.key("B")] @ a)
    before = update.shape[: update.ndim - 2 - len(block.stacked)]
    return weight + update.reshape(*before, *block.shape).to(weight.dtype)


def gradients(
    problem: TrainingSetup, frozen: Mapping[str, Tensor], trained: Mapping[str, Tensor], index: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses (b,) of one client's mini-batch, rows ``index`` of the data, and the gradients of their mean.

    Args:
        frozen, trained: by `Block.key`, this client's factors; the gradients are those of ``trained``, in its order.
            None: the losses do not depend on that factor.
    """
    inputs, targets = problem.take(index)
    factors = {**frozen, **trained}
    weights = {f"model.{b.name}": effective(b, problem.model.get_parameter(b.name), factors) for b in problem.blocks}

    def run() -> tuple[Tensor, list[Tensor | None]]:
        losses = problem.loss(call(problem.model, inputs), targets).flatten()
        return losses.detach(), list(torch.autograd.grad(losses.mean(), list(trained.values()), allow_unused=True))

    found: tuple[Tensor, list[Tensor | None]] = functional_call(_Holding(problem.model), weights, (run,))
    return found


class _Holding(nn.Module):
    """Has the model have other weights while a function runs: the way back may compute activations once more."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def step(
    problem: TrainingSetup,
    frozen: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    index: Tensor,
    real: Tensor,
    draws: Sequence[Stream],
) -> tuple[Tensor, list[Tensor]]:
    """The same for every client of a cohort, one after another.

    Args:
        parameters: by `Block.key`, (k, ...), the trained factors.
        index, real: (k, b), the rows, and which of them are not there to fill a short mini-batch up.
        draws: one for each client: the seed of whatever the model draws at random.

    Returns:
        Losses (k, b), 0 where a row is not real, and the gradients (k, ...) in the order of ``parameters``.
    """
    losses, stacked = torch.zeros(index.shape, dtype=torch.float64), [torch.zeros_like(p) for p in parameters.values()]
    for place, stream in enumerate(draws):
        own = {key: value[place].detach().requires_grad_() for key, value in parameters.items()}
        with _seeded(stream, stacked[0].device):
            found, own_gradients = gradients(problem, frozen, own, index[place][real[place]])
        losses[place][real[place]] = found.to("cpu", torch.float64)
        for total, gradient in zip(stacked, own_gradients, strict=True):
            if gradient is not None:
                total[place] = gradient
    return losses, stacked


@contextmanager
def _seeded(stream: Stream, device: torch.device) -> Iterator[None]:
    """The global generators of PyTorch, NumPy and Python start from the stream, and are as before afterwards."""
    numbers, own, seed = np.random.get_state(), random.getstate(), stream.seed63()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(own)
