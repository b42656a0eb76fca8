"""Dropout, gradient checkpointing, autocast and low precision in models of transformers."""

from dataclasses import replace

import pytest
import torch
from checkpoints import Workload, bert, deberta, gpt2, llama, make, swin, t5_encoder, vit
from test_engine import Run
from torch import Tensor, nn

from fedrac.models.hf import HuggingFace, checkpoint_activations, dropouts
from fedrac.training.optimizer import LocalSpec

LOCAL = LocalSpec("adamw", lr=0.02, batch_size=3)


class ReadyRun(Run):
    """A run on a model that is changed first."""

    def __init__(self, work: Workload, attention: str = "sdpa", dropout: float = 0.0) -> None:
        for name in dropouts(work.model.config):
            setattr(work.model.config, name, dropout)
        work.model.config._attn_implementation = attention
        super().__init__(work, "left")

    def factors(self) -> dict[str, Tensor]:
        return self.train(self.shards, LOCAL).factors


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("factory", [bert, gpt2, vit, t5_encoder], ids=lambda f: f.__name__)
def test_dropout_is_the_clients_own(factory, attention):
    """Also where other clients have longer texts, so that the batch is padded further."""
    work = make(factory)
    mask = work.inputs.get("attention_mask")
    if mask is not None:  # the first client's texts are short
        mask[:3, 4:] = 0
        work = replace(work, targets=work.targets.where(mask.bool(), -100) if factory is gpt2 else work.targets)
    run, quiet = ReadyRun(work, attention, 0.3), ReadyRun(make(factory), attention)
    together, without = run.factors(), quiet.factors()
    for shard in run.shards:
        for key, factor in run.train([shard], LOCAL).factors.items():
            torch.testing.assert_close(together[key][shard.client], factor[0], rtol=1e-8, atol=1e-8)
    assert all((together[key] - without[key]).abs().max() > 1e-4 for key in together)


@pytest.mark.parametrize("factory", [deberta, swin], ids=lambda f: f.__name__)
def test_what_a_default_configuration_drops_is_the_clients_own(factory, caplog):
    """DeBERTa drops of what all rows share, Swin whole layers."""

    def run():
        work = make(factory)
        work.model.config.hidden_dropout_prob = work.model.config.attention_probs_dropout_prob = 0.1
        work.model.config.drop_path_rate = 0.3
        return Run(work, "left")

    together = run().train(run().shards, LOCAL).factors
    assert "one at a time" not in caplog.text
    for shard in run().shards:
        for key, factor in run().train([shard], LOCAL).factors.items():
            torch.testing.assert_close(together[key][shard.client], factor[0], rtol=1e-8, atol=1e-8)
    quiet = Run(make(factory), "left")
    without = quiet.train(quiet.shards, LOCAL).factors
    assert all((together[key] - without[key]).abs().max() > 1e-6 for key in together)


@pytest.mark.parametrize("factory", [bert, llama, vit], ids=lambda f: f.__name__)
def test_gradient_checkpointing_changes_nothing(factory):
    expected = ReadyRun(make(factory)).factors()
    run = ReadyRun(make(factory))
    checkpoint_activations(run.model.model)
    calls = []
    linear = next(m for m in run.model.modules() if isinstance(m, nn.Linear))
    linear.register_forward_hook(lambda *_: calls.append(1))
    run.train(run.shards[:1], LocalSpec(lr=0.1, sampling="full"))
    assert len(calls) > 1  # once forward, once more backward
    for key, factor in run.factors().items():
        torch.testing.assert_close(factor, expected[key], rtol=1e-9, atol=1e-9)


def test_gradient_checkpointing_with_dropout_is_refused():
    model = ReadyRun(make(bert), dropout=0.1).model.model
    with pytest.raises(ValueError, match=r"computes every layer twice .* set model.dropout=0"):
        checkpoint_activations(model)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16 weights"])
@pytest.mark.parametrize("factory", [bert, gpt2, vit], ids=lambda f: f.__name__)
def test_low_precision_is_near_to_full_precision(factory, autocast):
    """The factors themselves stay in the dtype of the start."""
    step = LocalSpec(lr=0.1, sampling="full")
    exact, run = ReadyRun(make(factory)), ReadyRun(make(factory))
    expected = exact.train(exact.shards, step).factors
    released = run.model.released()
    run.model = HuggingFace(released.float(), torch.bfloat16) if autocast else HuggingFace(released.bfloat16())
    run.dtype = torch.float32 if autocast else torch.bfloat16
    factors = run.train(run.shards, step).factors
    assert all(f.dtype == torch.float64 for f in factors.values())
    difference = sum(float((f - expected[key]).square().sum()) for key, f in factors.items())
    assert 0 < difference < 0.02 * sum(float(f.square().sum()) for f in expected.values())
