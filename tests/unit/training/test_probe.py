"""What the probe finds out before a run, and what it says."""

import logging
import re

import any_models
import numpy as np
import pytest
import torch
from any_models import COMPUTED, IMAGES, MIXING, SERIES, TEXTS
from runs import strategy, train, workload
from test_any_model import METHODS, SHARDS, federation
from torch import nn

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.flower import host
from fedrac.training.local import train_cohort
from fedrac.training.setup import KnownWays, Shard, TrainingSetup
from fedrac.training.way import Refused


def way_of(name, method=METHODS["left"], full=()):
    f = federation(name, method, full=full)
    ways, work = KnownWays(), f.workload
    problem = TrainingSetup(work.model, f.blocks, work.loss, lambda i: (work.inputs[i], work.targets[i]), ways)
    for round_ in (1, 2):
        train_cohort(problem, f.start(1), [Shard(c, rows) for c, rows in enumerate(SHARDS)], f.local, 0, round_)
    (way,) = ways.found.values()
    return way


ALONE = {
    "weight of a layer that is not called": "'the model' .Series. reads trained weights",
    "relative positions": "'the model' .RelativePositions. reads trained weights",
    "mixture of modules": "'experts.0' .Linear. reads trained weights",
    "embedding with frequencies": "the gradient of embedding.weight differs",
    "standardised over the batch": "losses differ by",
    "sum over the batch": "losses differ by",
    "positions without a first dimension": "'inner' .Embedding. reads trained weights",
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", [*IMAGES, *SERIES, *TEXTS, *MIXING])
def test_clients_train_together_wherever_they_can(name, caplog):
    way = way_of(name)
    if name not in ALONE:
        assert way.alone is None
        assert way.layers or way.units
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    else:
        assert re.search(ALONE[name], way.alone)
        assert caplog.text.count("the clients are trained one at a time") == 1  # once, not in every round


def test_only_plain_layers_get_an_update_added():
    assert way_of("frozen statistics").layers == {"first.0", "last"}
    for name in ("standardised convolution", "user's hook", "user's forward", "scaled embedding", "Conv1d"):
        assert len(way_of(name).layers) == 1  # the last one


class Counting(nn.Module):
    """Keeps a running mean of what it saw."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return self.layer(x - self.mean).mean(1)


class Bounded(nn.Linear):
    """Bounds its weights whenever it is used."""

    def forward(self, x):
        self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "name"), [(Counting, "mean"), (lambda: any_models.Series(Bounded(6, 8)), "inner.weight")]
)
def test_a_model_that_changes_itself_is_refused_and_left_as_it_was(model, name, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model().double()
    monkeypatch.setattr(any_models, "make", lambda _: made)
    f = federation("GRU", Method())
    with pytest.raises(Refused, match=f"the model changes '{name}' whenever it computes in training mode"):
        f.train(range(4))
    for key, value in f.state.weights.items():
        assert torch.equal(made.state_dict()[key], value)


def test_a_refusal_is_not_laid_on_a_client():
    calls = []

    def training(clients):
        calls.append(clients)
        raise Refused("the model changes itself")

    with pytest.raises(Refused):
        host._train_all(training, [3, 4])
    assert calls == [[3, 4]]


def test_spectral_norm_keeps_its_vectors():
    f = federation("spectral_norm", Method(train="full"), full=("*",))
    before = {n: b.clone() for n, b in f.workload.model.named_buffers()}
    f.train(range(4))
    assert all(torch.equal(b, before[n]) for n, b in f.workload.model.named_buffers())


def series(classes=3):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5, 6)).astype(np.float32), rng.integers(0, classes, 30)
    return (x, y), (x[:6], y[:6])


@pytest.mark.parametrize("name", ["GRU", "mixture", "sum over the batch"])
def test_a_whole_run_learns_and_says_what_it_trains(name, caplog):
    caplog.set_level("INFO", "fedrac")
    work = workload(
        data={"_target_": "test_probe.series"},
        model={"_target_": "any_models.make", "name": name},
        partition={"scheme": "iid", "clients": 4},
    )
    losses = [report.train_loss for report in train(strategy(work, adapt=AdaptSpec({"*": 2}, ("*.bias",))), rounds=8)]
    assert losses[-1] < losses[0]
    assert "parameters are trained" in caplog.text
    assert ("one at a time" in caplog.text) == (name in MIXING)


def test_the_message_of_a_layer_that_is_computed():
    for name in COMPUTED:
        with pytest.raises(ValueError, match=r"layer 'inner': its weight.* is computed from other parameters"):
            federation(name, Method())
