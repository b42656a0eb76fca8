"""SCAFFOLD and FedDyn against the oracle: clients' controls as their papers have them, over dense models."""

from dataclasses import dataclass, field

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle
from workloads import conv, make, mlp, shards

from fedrac.algorithm.controlled import FedDyn, Scaffold
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

SHARE = 0.6  # three of the five clients
LOW_RANK = {"train": "factor", "fresh": False, "merge": False}
METHODS = {
    "SCAFFOLD": Scaffold(participation=SHARE),
    "SCAFFOLD of factors": Scaffold(participation=SHARE, **LOW_RANK),
    "SCAFFOLD of both factors": Scaffold(participation=SHARE, **{**LOW_RANK, "train": "both", "side": "right"}),
    "FedDyn": FedDyn(prox=0.4, participation=SHARE),
    "FedDyn of factors": FedDyn(prox=0.4, participation=SHARE, **LOW_RANK),
}


@dataclass
class Controlled(Oracle):
    """Each client has a control of its own, and the server the mean of all of them, those who were never drawn too."""

    own: dict[int, Factors] = field(default_factory=dict)

    def _of(self, client: int, key: str) -> torch.Tensor | float:
        return self.own.get(client, {}).get(key, 0.0)

    def _mean(self, key: str) -> torch.Tensor | float:
        return sum(self._of(client, key) for client in range(len(self.shards))) / len(self.shards)

    def _linear(self, client, trained):
        if isinstance(self.method, FedDyn):
            return -sum((self._of(client, key) * f).sum() for key, f in trained.items())
        return sum(((self.means[key] - self._of(client, key)) * f).sum() for key, f in trained.items())

    def step(self):
        self.new, start = {}, {**self._first(self.round + 1), **self.carried}
        self.means = {key: self._mean(key) for key in start}
        found = super().step()
        self.own |= self.new
        if isinstance(self.method, FedDyn):
            self._shift(start)
        return found

    def _client(self, client):
        start = {**self._first(self.round), **self.carried}
        factors, loss = super()._client(client)
        steps = len(list(self._batches(client)))
        control = {}
        for key, f in factors.items():
            if isinstance(self.method, FedDyn):
                control[key] = self._of(client, key) - self.method.prox * (f - start[key])
            else:
                seen = (start[key] - f) / (steps * self.local.lr)
                control[key] = self._of(client, key) - self.means[key] + seen
        self.new[client] = control
        return factors, loss

    def _shift(self, start: Factors) -> None:
        """From the mean of the clients' models to that less ``h / alpha``; the step eta' is of the whole way."""
        for key in start:
            shift = self.eta * self._mean(key) / self.method.prox
            if key in self.carried:
                self.carried[key] = self.carried[key] - shift
            else:
                self.weights[key[:-2]] = self.weights[key[:-2]] - shift


@pytest.mark.parametrize("factory", [mlp, conv], ids=lambda f: f.__name__)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods_and_layers(factory, method):
    """Clients of unequal size, so that each has steps of its own; a gradient is clipped with its correction."""
    sgd = LocalSpec("sgd", 0.02, batch_size=5, epochs=2, l2=0.1, clip=2.0)
    local = sgd if isinstance(method, Scaffold) else LocalSpec("adamw", 0.02, batch_size=5, epochs=2, l2=0.1)
    f = Federation(make(factory), shards(), method, local, cohort=3, eta=0.8)
    assert len(f.shards) == 5
    ranks = {block.name: block.rank for block in f.blocks}
    oracle = Controlled(f.workload, f.shards, ranks, f.alpha, method, f.sketch, local, 3, f.eta, False)
    for _ in range(6):
        found, (factors, losses) = f.round(), oracle.step()
        for key, expected in factors[0].items():
            assert float((found.factors[key][0] - expected).abs().max()) < 1e-10
        assert found.losses.tolist() == pytest.approx(losses, rel=1e-9)
        for name, expected in oracle.model().items():
            assert float((f.weights()[name] - expected).abs().max()) < 1e-10
        for client, kept in oracle.own.items():
            for key, expected in kept.items():
                assert float((f.own[client][f"{key}/control"] - expected).abs().max()) < 1e-10
    assert len(f.own) > 3


@pytest.mark.parametrize("kind", [Scaffold, FedDyn])
@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"train": "factor"}, "a client's control belongs to one sketch: set method.fresh=false"),
        ({"participation": 0.0}, "method.participation=0.0 must lie in"),
        ({"personal": ("*:D",)}, "goes neither with method.ranks nor with method.personal"),
    ],
)
def test_what_does_not_go_together(kind, choices, message):
    with pytest.raises(ValueError, match=message):
        kind(**choices)
