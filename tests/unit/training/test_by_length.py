"""Clients' texts of all lengths trained in passes: each client as alone, and as with padding to the longest text."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.sketch import SketchSpec
from fedrac.data.tasks import IGNORED, named
from fedrac.training import memory, probe
from fedrac.training.local import train_cohort
from fedrac.training.optimizer import LocalSpec
from fedrac.training.passes import MOST
from fedrac.training.setup import KnownWays, Shard, TrainingSetup

SIZES, WORDS, LONGEST = (7, 4, 1, 6), 11, 13


class Recurrent(nn.Module):
    """A module with a loop over time and dropout inside: no vmap can take it, so clients go one after another."""

    def __init__(self):
        super().__init__()
        self.weight, self.drop = nn.Parameter(0.3 * torch.randn(6, 6)), nn.Dropout(0.2)

    def forward(self, x):
        state, found = torch.zeros_like(x[:, 0]), []
        for step in x.unbind(1):
            state = torch.tanh(self.drop(step) + state @ self.weight.T)
            found.append(state)
        return torch.stack(found, 1)


class Texts(nn.Module):
    """Low-rank and full layers, units and dropout; what it says of a text does not depend on how far it is padded."""

    def __init__(self, of_tokens, drop):
        super().__init__()
        self.words, self.inner, self.out = nn.Embedding(WORDS, 6), nn.Linear(6, 6), nn.Linear(6, WORDS)
        self.norm, self.drop, self.recurrent = nn.LayerNorm(6), nn.Dropout(drop), Recurrent()
        self.recurrent.drop.p, self.of_tokens = drop, of_tokens

    def forward(self, texts):
        ids, mask = texts.unbind(1)
        x = self.words(ids)
        allowed = mask.bool()[:, None] & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        allowed = allowed | torch.eye(x.shape[1], dtype=torch.bool)
        x = x + F.scaled_dot_product_attention(x, x, x, allowed, self.drop.p if self.training else 0.0)
        x = self.recurrent(self.norm(x + self.drop(self.inner(x))))
        real = mask[..., None].to(x.dtype)
        return self.out(x) if self.of_tokens else self.out((x * real).sum(1) / real.sum(1))


class Work:
    def __init__(self, of_tokens, drop, full=(), columns=None):
        torch.manual_seed(0)
        self.model = Texts(of_tokens, drop).double()
        self.task = named("tagging" if of_tokens else "classification")
        count = sum(SIZES)
        self.lengths = torch.randint(2, LONGEST + 1, (count,))
        self.mask = (torch.arange(LONGEST) < self.lengths[:, None]).long()
        self.ids = torch.randint(WORDS, (count, LONGEST)) * self.mask
        tags = torch.randint(WORDS, (count, LONGEST)).masked_fill(self.mask == 0, IGNORED)
        self.targets = tags if of_tokens else torch.randint(WORDS, (count,))
        ranks, method = {"*": "frozen", "words": 2, "inner": 2, "out": 2}, Method(side="both" if columns else "left")
        self.blocks = plan_blocks(self.model, AdaptSpec(ranks, full, columns=columns), method)
        sketches = draw_sketches(self.blocks, method, SketchSpec(), 1)
        self.start = start_of_round(self.blocks, method.at(1), sketches.values, {}, torch.float64)
        self.shards = [Shard(c, rows) for c, rows in enumerate(torch.randperm(count).split(SIZES))]
        self.model.requires_grad_(False)

    def take(self, index):
        width = int(self.lengths[index].max())
        targets = self.targets[index]
        return torch.stack([self.ids[index], self.mask[index]], 1)[..., :width], targets[..., :width]

    def train(self, shards, max_tokens=None, by_length=True):
        take = self.take if self.task.dimensions == 2 else lambda i: (self.take(i)[0], self.targets[i])
        lengths = self.lengths if by_length else None
        problem = TrainingSetup(self.model, self.blocks, self.task.loss, take, KnownWays(), lengths)
        local = LocalSpec("adamw", lr=0.05, batch_size=3, epochs=2, max_tokens=max_tokens)
        return train_cohort(problem, self.start, shards, local, 0, 1)


@pytest.mark.parametrize(
    "full, columns",
    [((), None), ((), 3), (("out.*",), None), (("norm.*", "inner.bias"), None), (("recurrent.*",), None)],
    ids=["layers", "two-sided", "full layer", "vmap", "loop"],
)
@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("of_tokens", [False, True])
def test_each_client_gets_its_own_result(of_tokens, drop, full, columns, caplog):
    work = Work(of_tokens, drop, full, columns)
    padded = work.train(work.shards, by_length=False)
    for most in (None, 30, 1):
        found = work.train(work.shards, most)
        torch.testing.assert_close(found.losses, padded.losses, rtol=1e-10, atol=0)
        for key, factor in padded.factors.items():
            torch.testing.assert_close(found.factors[key], factor, rtol=1e-8, atol=1e-9, msg=f"{key} {most}")
            assert (factor - work.start.trained[key]).abs().amax(tuple(range(1, factor.ndim))).min() > 1e-3, key
    for place, shard in enumerate(work.shards):
        alone = work.train([shard])
        torch.testing.assert_close(alone.losses[0], padded.losses[place], rtol=1e-10, atol=0)
        for key, factor in alone.factors.items():
            torch.testing.assert_close(factor[0], padded.factors[key][place], rtol=1e-8, atol=1e-9)
    assert not caplog.text  # no client was trained alone for want of a better way


@pytest.mark.parametrize("budget, least, most", [(1, 1, 1), (10**4, 2, 100), (2**50, MOST, MOST)])
def test_what_is_tried_first_keeps_to_the_memory_there_is(budget, least, most, monkeypatch):
    seen, original = [], probe.passes
    monkeypatch.setattr(memory, "_budget", lambda device: budget)
    monkeypatch.setattr(probe, "passes", lambda *given: seen.append(given[-1]) or original(*given))
    work = Work(False, 0.0)
    work.train(work.shards)
    assert seen and all(least <= bound <= most for bound in seen)
