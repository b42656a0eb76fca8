"""The cohort engine on transformers' architectures against those models themselves, one client at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES, SIZES, Workload, gpt2, make, roberta
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import Block, plan_blocks
from fedrac.algorithm.means import Cohort
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_means import round_means
from fedrac.algorithm.round_start import Start, draw_sketches, start_of_round
from fedrac.algorithm.server import initial_state
from fedrac.algorithm.server_step import advance
from fedrac.algorithm.sketch import SketchSpec
from fedrac.data.batch import IGNORED
from fedrac.training.local import CohortResult, train_cohort
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import KnownWays, Shard, TrainingSetup

every_architecture = pytest.mark.parametrize("factory", ARCHITECTURES, ids=lambda f: f.__name__)
both_sides = pytest.mark.parametrize("side", ["left", "right"])
LOCAL = LocalSpec("adamw", lr=0.02, batch_size=3, epochs=2)


def layers_of(model: torch.nn.Module) -> dict[str, int]:
    """Every linear layer, and the embedding of tokens or patches."""
    ends = ("word_embeddings", "wte", "embed_tokens", "projection")
    paths = [path for path, _ in model.named_modules() if path.endswith(ends)]
    return {"all-linear": 2, **dict.fromkeys(paths, 2)}


class Run:
    """One round of all clients."""

    def __init__(self, work: Workload, side: str) -> None:
        self.work, self.method, self.model = work, Method(side=side), work.wrapped()
        spec = AdaptSpec(layers_of(self.model), [] if work.task == "causal_lm" else ["head"], alpha=3.0)
        self.blocks = plan_blocks(self.model, spec, self.method)
        self.sketches = draw_sketches(self.blocks, self.method, SketchSpec(), 1)
        self.start: Start = start_of_round(self.blocks, self.method.at(1), self.sketches.values, {}, torch.float64)
        self.dtype = torch.float64
        self.shards = [Shard(c, rows) for c, rows in enumerate(torch.arange(sum(SIZES)).split(SIZES))]

    def train(self, shards: list[Shard], local: LocalSpec = LOCAL) -> CohortResult:
        problem = TrainingSetup(self.model, self.blocks, self.work.losses, self._take, KnownWays(), self.work.lengths)
        return train_cohort(problem, self.start, shards, local, 0, 1)

    def _take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = self.work.take(index)
        return inputs.to(self.dtype) if inputs.is_floating_point() else inputs, targets

    def alone(self, shard: Shard) -> dict[str, Tensor]:
        """The client's factors after full-batch steps of SGD on the model of transformers, W + s B A made dense."""
        trained = {key: f.clone().requires_grad_() for key, f in self.start.trained.items()}
        for _ in range(2):
            logits = self.dense({**self.start.frozen, **trained}, shard.index)
            loss = self.work.losses(logits, self.work.targets[shard.index]).mean()
            gradients = torch.autograd.grad(loss, list(trained.values()))
            for factor, gradient in zip(trained.values(), gradients, strict=True):
                factor.data -= 0.05 * gradient
        return {key: f.detach() for key, f in trained.items()}

    def dense(self, factors: dict[str, Tensor], index: Tensor) -> Tensor:
        """Logits of the model of transformers with the factors merged into its weights."""
        return self.work.logits({b.name.removeprefix("model."): self._merged(b, factors) for b in self.blocks}, index)

    def _merged(self, block: Block, factors: dict[str, Tensor]) -> Tensor:
        path, _, attribute = block.name.removeprefix("model.").rpartition(".")
        layer = self.work.model.get_submodule(path)
        weight = getattr(layer, attribute)
        if block.rank is None:
            return weight + factors[block.key("D")]
        update = block.scale * factors[block.key("B")] @ factors[block.key("A")]
        return weight + (update.T if isinstance(layer, Conv1D) else update.reshape(weight.shape))


@every_architecture
@both_sides
def test_cohort_is_each_client_alone_on_the_model_of_transformers(factory, side):
    run = Run(make(factory), side)
    found = run.train(run.shards, LocalSpec(lr=0.05, epochs=2, sampling="full"))
    for shard in run.shards:
        expected = run.alone(shard)
        assert set(found.factors) == set(expected)
        for key, factor in expected.items():
            torch.testing.assert_close(found.factors[key][shard.client], factor, rtol=1e-8, atol=1e-8, msg=key)
            assert factor.abs().max() > 1e-6, key


@every_architecture
@both_sides
def test_cohort_is_one_client_at_a_time(factory, side):
    """With mini-batches, AdamW, and texts of all clients in passes by their lengths."""
    run = Run(make(factory), side)
    together = run.train(run.shards, replace(LOCAL, max_tokens=20))
    for shard in run.shards:
        for key, factor in run.train([shard]).factors.items():
            torch.testing.assert_close(together.factors[key][shard.client], factor[0], rtol=1e-8, atol=1e-8)


@every_architecture
@both_sides
def test_merge_equals_adapter(factory, side):
    """The server's new weights predict what the model with the clients' mean factors predicts."""
    run = Run(make(factory), side)
    found = run.train(run.shards)
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = initial_state(weights, run.blocks, run.method, SketchSpec())
    shares = np.full(len(SIZES), 1 / len(SIZES))
    means = round_means(state, run.blocks, run.method.at(1), found.factors, Cohort(shares))
    new = advance(state, run.blocks, run.method.at(1), run.sketches.values, means, 1.0)
    means = {key: f.mean(0) for key, f in found.factors.items()}
    expected = run.dense({**run.start.frozen, **means}, torch.arange(4))
    run.model.load_state_dict(new.weights)
    inputs, _ = run.work.whole(torch.arange(4))
    real = run.work.targets[:4] != IGNORED  # fedrac has other ids in a language model's padding
    torch.testing.assert_close(run.model(inputs)[real], expected[real], rtol=1e-8, atol=1e-8)


def test_tied_embedding_is_one_block():
    run = Run(make(gpt2), "left")
    tied = [b for b in run.blocks if "wte" in b.name or "lm_head" in b.name]
    assert [b.names for b in tied] == [("model.transformer.wte.weight", "model.lm_head.weight")]


def test_padding_may_have_any_id_and_length():
    run = Run(make(roberta), "left")
    texts, _ = run.work.whole(torch.arange(4))
    more = torch.cat([texts, torch.zeros(4, 2, 3, dtype=torch.int64)], 2)
    more[:, 0] += 5 * (more[:, 1] == 0)
    torch.testing.assert_close(run.model(more), run.model(texts), rtol=1e-12, atol=1e-12)
