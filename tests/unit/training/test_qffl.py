"""q-FFL against the oracle: the step of q-FedAvg as the paper writes it, over dense models."""

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle
from workloads import conv, make, mlp, shards

from fedrac.algorithm.method import Method
from fedrac.algorithm.qffl import QFedAvg
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


class Fair(Oracle):
    """``Delta_c = F_c^q L (x - x_c)``, ``h_c = q F_c^(q-1) |L (x - x_c)|^2 + L F_c^q``; a step of their sums' ratio."""

    def _client(self, client):
        factors, loss = super()._client(client)
        self.losses = [*getattr(self, "losses", []), loss]
        return factors, loss

    def _server(self, found: list[Factors], shares: list[float]) -> None:
        q, bound, losses = self.method.q, 1 / self.method.step_size, self.losses[-len(found) :]
        start = {**{key: torch.zeros_like(f) for key, f in found[0].items()}, **self.carried}
        steps, total = {key: torch.zeros_like(f) for key, f in start.items()}, 0.0
        for loss, factors in zip(losses, found, strict=True):
            away = {key: bound * (start[key] - f) for key, f in factors.items()}
            for key, each in away.items():
                steps[key] = steps[key] + loss**q * each
            total += q * loss ** (q - 1) * sum(float(each.square().sum()) for each in away.values()) + bound * loss**q
        for key, step in steps.items():
            change = -self.eta * step / total
            if key in self.carried:
                self.carried[key] = self.carried[key] + change
            else:
                self.weights[key[:-2]] = self.weights[key[:-2]] + change


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("choices", [{}, {"train": "factor", "fresh": False, "merge": False}], ids=["full", "factors"])
@pytest.mark.parametrize("factory", [mlp, conv], ids=lambda f: f.__name__)
def test_methods_and_layers(factory, choices, q):
    method, local = QFedAvg(q=q, step_size=0.05, **choices), LocalSpec("sgd", 0.05, batch_size=5, epochs=2)
    f = Federation(make(factory), shards(), method, local, cohort=3, eta=0.8)
    ranks = {block.name: block.rank for block in f.blocks}
    oracle = Fair(f.workload, f.shards, ranks, f.alpha, method, f.sketch, local, 3, f.eta, False)
    for _ in range(4):
        f.round(), oracle.step()
        for name, expected in oracle.model().items():
            assert float((f.weights()[name] - expected).abs().max()) < 1e-10


def test_without_fairness_it_is_the_plain_mean():
    local = LocalSpec("sgd", 0.05, batch_size=5)
    methods = Method(train="full"), QFedAvg(q=0.0, step_size=0.7)
    plain, fair = (Federation(make(mlp), shards(), method, local, cohort=3) for method in methods)
    for _ in range(3):
        plain.round(), fair.round()
    for name, value in plain.weights().items():
        torch.testing.assert_close(fair.weights()[name], value, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"q": -1.0}, "method.q=-1.0"), ({"step_size": 0.0}, "step_size=0.0"), ({"train": "both"}, "of one update")],
)
def test_what_it_does_not_take(choices, message):
    with pytest.raises(ValueError, match=message):
        QFedAvg(**choices)
