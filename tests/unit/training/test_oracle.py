"""The cohort engine against the oracle: plain loops over dense matrices, one client at a time."""

import pytest
from federation import Federation
from oracle import Oracle, agree
from workloads import FACTORIES, conv, make, mlp, shards, text, tied

from fedrac.algorithm.method import Method
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch on its own padding

ROUNDS = 5
SIDES = ("left", "right")
OPTIMIZERS = {
    "sgd": {"lr": 0.05},
    "momentum": {"lr": 0.02, "momentum": 0.9},
    "decay": {"lr": 0.05, "momentum": 0.5, "weight_decay": 0.3},
    "adamw": {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.3},
    "theory": {"lr": 0.05, "precondition": True},
    "l2": {"lr": 0.05, "l2": 0.2},
    "clip": {"lr": 0.1, "clip": 0.3},
    "all": {"lr": 0.05, "precondition": True, "l2": 0.2, "clip": 0.3, "momentum": 0.5},
}
METHODS = {
    "AsymmLoRA": {"fresh": False, "merge": False},
    "chained on one sketch": {"fresh": False},
    "FedIT": {"train": "both", "fresh": False, "merge": False},
    "Fed-COLA": {"train": "both"},
    "FLoRA": {"train": "both", "average": "products"},
    "FedEx-LoRA": {"train": "both", "fresh": False, "merge": False, "average": "products"},
    "FedAvg": {"train": "full"},
}


def check(federation, rounds=ROUNDS):
    """Runs both; the clients' factors and losses and the models must agree after every round."""
    ranks = {b.name: b.rank for b in federation.blocks}
    cohort = federation.cohort or len(federation.shards)
    oracle = Oracle(
        federation.workload,
        federation.shards,
        ranks,
        federation.alpha,
        federation.method,
        federation.sketch,
        federation.local,
        cohort,
        federation.eta,
        federation.weighting == "examples",
    )
    agree(federation, oracle, rounds, 1e-10)
    return federation


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
def test_layers(factory, side):
    local = LocalSpec(lr=0.02, batch_size=5, epochs=2)
    check(Federation(make(factory), shards(), Method(side=side), local))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factory", [mlp, conv], ids=lambda f: f.__name__)
def test_optimizers(factory, optimizer, side):
    local = LocalSpec(**{"batch_size": 5, **OPTIMIZERS[optimizer]})
    check(Federation(make(factory), shards(), Method(side=side), local, cohort=3))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("optimizer", ["adamw", "theory", "l2"])
@pytest.mark.parametrize("factory", [text, tied], ids=lambda f: f.__name__)
def test_optimizers_on_embeddings(factory, optimizer, side):
    local = LocalSpec(**{"batch_size": 5, **OPTIMIZERS[optimizer]})
    check(Federation(make(factory), shards(), Method(side=side), local, cohort=3))


@pytest.mark.parametrize("max_tokens", [1, 12, 10_000])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("sampling", ["rr", "replacement", "full"])
def test_sampling_and_chunks(sampling, optimizer, max_tokens):
    local = LocalSpec(**OPTIMIZERS[optimizer], batch_size=5, epochs=2, sampling=sampling, max_tokens=max_tokens)
    check(Federation(make(mlp), shards(), Method(), local))


@pytest.mark.parametrize("eta", [1.0, 0.6])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", METHODS)
def test_methods(method, side, eta):
    local = LocalSpec(lr=0.03, batch_size=5)
    method = Method(side=side, **METHODS[method])
    check(Federation(make(mlp), shards(), method, local, cohort=4, eta=eta, weighting="examples"))


@pytest.mark.parametrize("choices", [{}, {"fresh": False}, {"train": "both"}, {"train": "both", "average": "products"}])
@pytest.mark.parametrize("factory", [mlp, conv, text], ids=lambda f: f.__name__)
def test_alternating_sides(factory, choices):
    local = LocalSpec(optimizer="adamw", lr=0.02, batch_size=5)
    check(Federation(make(factory), shards(), Method(side="alternate", **choices), local, cohort=3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factory", [conv, text], ids=lambda f: f.__name__)
def test_methods_on_other_layers(factory, method):
    local = LocalSpec(optimizer="adamw", lr=0.02, batch_size=5, l2=0.1, clip=0.5)
    method = Method(side="right", **METHODS[method])
    check(Federation(make(factory), shards(), method, local, cohort=3, eta=1.5))


@pytest.mark.parametrize("law", ["gaussian", "rademacher", "haar", "coordinate"])
@pytest.mark.parametrize("side", SIDES)
def test_laws(law, side):
    check(Federation(make(mlp), shards(), Method(side=side), LocalSpec(lr=0.05, batch_size=5), law=law))


def test_mixed_ranks():
    layers = {"*": 3, "0": "full", "3": 1}
    federation = check(Federation(make(mlp), shards(), Method(), LocalSpec(lr=0.05), layers))
    assert {b.name: b.rank for b in federation.blocks} == {
        "0.weight": None,
        "0.bias": None,
        "1.weight": None,
        "1.bias": None,
        "3.weight": 1,
        "3.bias": None,
    }
