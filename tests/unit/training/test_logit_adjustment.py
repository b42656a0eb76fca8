"""Logits shifted by each client's own shares, in a cohort as alone."""

import torch
import torch.nn.functional as F
from torch import nn

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import start_of_round
from fedrac.training.local import train_cohort
from fedrac.training.logit_adjustment import adjusted
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import Shard, TrainingSetup


def test_a_step_is_that_of_the_shifted_cross_entropy() -> None:
    """Every client of a cohort, against plain gradients with its own shift; the fourth output is no class."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(12, 5, generator=g, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 0, 1])
    model = nn.Linear(5, 4).double()
    blocks = plan_blocks(model, AdaptSpec({"*": "full"}, ("*",)), Method(train="full"))
    take = lambda i: (x[i], y[i])  # noqa: E731
    loss = lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none")  # noqa: E731
    shards = [Shard(0, torch.arange(5)), Shard(1, torch.arange(5, 12))]
    problem = adjusted(TrainingSetup(model.requires_grad_(False), blocks, loss, take), shards, y, 3, 0.7)
    start = start_of_round(blocks, Method(train="full").at(1), {}, {}, torch.float64)
    found = train_cohort(problem, start, shards, LocalSpec(lr=0.5, sampling="full"), 0, 1).factors["weight:D"]
    for place, (shard, counts) in enumerate(zip(shards, ([3, 2, 0], [1, 1, 5]), strict=True)):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[:3] = 0.7 * ((torch.tensor(counts).double() + 1) / (sum(counts) + 3)).log()
        weight = model.weight.clone().requires_grad_()
        value = F.cross_entropy(x[shard.index] @ weight.T + model.bias + shift, y[shard.index])
        (gradient,) = torch.autograd.grad(value, [weight])
        torch.testing.assert_close(found[place], -0.5 * gradient, rtol=1e-10, atol=1e-12)
