"""Server optimizers against the oracle's dense models: FedOpt (arXiv 2003.00295) on the mean of the clients' models."""

from dataclasses import dataclass, field

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle
from torch import Tensor
from workloads import conv, linear, make, mlp, shards, text, tied

from fedrac.algorithm.method import Method
from fedrac.algorithm.server_optimizer import ServerOptimizer
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

OPTIMIZERS = {
    "momentum": ServerOptimizer("momentum", 0.5, 0.7),
    "adam": ServerOptimizer("adam", 0.03, 0.8, 0.9, 0.05),
    "yogi": ServerOptimizer("yogi", 0.03, 0.8, 0.9, 0.05),
}
METHODS = {
    "Fed-RAC-LoRA": {},
    "FedAvg": {"train": "full"},
    "Fed-COLA": {"train": "both", "side": "right"},
    "FLoRA": {"train": "both", "side": "right", "average": "products"},
    "AsymmLoRA": {"fresh": False, "merge": False},
    "FedIT": {"train": "both", "side": "right", "fresh": False, "merge": False},
}


@dataclass
class Optimized(Oracle):
    """The published algorithm on dense models; on the factors that a method carries, where it does not merge."""

    m: Factors = field(default_factory=dict)
    v: Factors = field(default_factory=dict)

    def _stepped(self, key: str, delta: Tensor) -> Tensor:
        of = self.method.optimizer
        self.m.setdefault(key, torch.zeros_like(delta))
        self.v.setdefault(key, torch.full_like(delta, of.tau**2))
        if of.name == "momentum":
            self.m[key] = of.beta1 * self.m[key] + delta
            return self.eta * of.lr * self.m[key]
        self.m[key] = of.beta1 * self.m[key] + (1 - of.beta1) * delta
        if of.name == "adam":
            self.v[key] = of.beta2 * self.v[key] + (1 - of.beta2) * delta**2
        else:
            sign = torch.sign(self.v[key] - delta**2)
            self.v[key] = self.v[key] - (1 - of.beta2) * delta**2 * sign
        return self.eta * of.lr * self.m[key] / (self.v[key].sqrt() + of.tau)

    def _server(self, found: list[Factors], shares: list[float]) -> None:
        frozen = self._frozen(self.round)
        models = [self._dense({**frozen, **f}) for f in found]
        mean = {key: sum(p * f[key] for p, f in zip(shares, found, strict=True)) for key in found[0]}
        for key, old in self.carried.items():
            self.carried[key] = old + self._stepped(key, mean[key] - old)
        for name, rank in self.ranks.items():
            if rank is not None and not self.method.merge:
                continue
            after = self._dense({**self._zero(), **frozen, **mean})[name]
            if self.method.average == "products" and rank is not None:
                after = sum(p * model[name] for p, model in zip(shares, models, strict=True))
            before = self.weights[name]
            self.weights[name] = before + self._stepped(name, after - before)


def check(factory, method, rounds=5, **choices):
    federation = Federation(
        make(factory), shards(), method, LocalSpec(lr=0.05, batch_size=5), cohort=3, weighting="examples", **choices
    )
    ranks = {b.name: b.rank for b in federation.blocks}
    oracle = Optimized(
        federation.workload, federation.shards, ranks, federation.alpha, method, federation.sketch, federation.local, 3,
        federation.eta, True,
    )  # fmt: skip
    for _ in range(rounds):
        federation.round()
        oracle.step()
        model = federation.weights()
        for name, expected in oracle.model().items():
            torch.testing.assert_close(model[name], expected, rtol=1e-9, atol=1e-9)
    for key, expected in oracle.m.items():
        torch.testing.assert_close(federation.state.moments[f"{key}/m"], expected, rtol=1e-9, atol=1e-9)
    return federation


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_methods(method, optimizer):
    check(mlp, Method(**METHODS[method], optimizer=OPTIMIZERS[optimizer]), eta=0.8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factory", [conv, text, tied], ids=lambda f: f.__name__)
def test_layers(factory, optimizer):
    check(factory, Method(optimizer=OPTIMIZERS[optimizer]))


@pytest.mark.parametrize("method", METHODS)
def test_momentum_that_forgets_is_the_plain_step(method):
    """With beta1 = 0 and lr = 1 the server steps as without an optimizer."""
    plain, forgetful = (
        Federation(make(mlp), shards(), Method(**METHODS[method], optimizer=o), eta=0.7)
        for o in (None, ServerOptimizer("momentum", beta1=0.0))
    )
    for _ in range(3):
        plain.round(), forgetful.round()
    for name, expected in plain.weights().items():
        torch.testing.assert_close(forgetful.weights()[name], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("optimizer", "most"), [("momentum", 3), ("adam", 5)])
def test_rank_of_the_update(optimizer, most):
    """Momentum adds up the rounds' updates of rank 1; Adam divides entry by entry, which keeps no rank."""
    federation = Federation(make(linear), shards(), Method(optimizer=OPTIMIZERS[optimizer]), layers={"*": 1})
    before = federation.state.weights["weight"]
    for _ in range(3):
        federation.round()
    rank = int(torch.linalg.matrix_rank(federation.state.weights["weight"] - before, rtol=1e-9))
    assert rank == min(most, *before.shape)


@pytest.mark.parametrize("optimizer", ["adam", "yogi"])
def test_a_padding_row_never_moves(optimizer):
    federation = Federation(make(text), shards(), Method(optimizer=OPTIMIZERS[optimizer]))
    before = federation.state.weights["0.weight"]
    for _ in range(2):
        federation.round()
    moved = (federation.state.weights["0.weight"] - before).abs().amax(1) > 0
    assert not moved[2] and moved.sum() > 1


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"name": "sgd"}, "method.optimizer.name='sgd' is unknown"),
        ({"name": "adam", "lr": 0.0}, "method.optimizer.lr=0.0 must be positive"),
        ({"name": "adam", "beta1": 1.0}, "method.optimizer.beta1=1.0 must lie in"),
        ({"name": "yogi", "beta2": -0.1}, "method.optimizer.beta2=-0.1 must lie in"),
        ({"name": "yogi", "tau": 0.0}, "method.optimizer.tau=0.0 must be positive"),
    ],
)
def test_bad_values(values, wrong):
    with pytest.raises(ValueError, match=wrong):
        Method(optimizer=values)


def test_factors_that_are_carried_but_averaged_as_products():
    with pytest.raises(ValueError, match=r"method.optimizer.name=adam with factors that are carried"):
        Method(train="both", fresh=False, merge=False, average="products", optimizer={"name": "adam"})
