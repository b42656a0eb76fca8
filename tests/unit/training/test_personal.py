"""Factors that stay with clients, against the oracle: every client's dense model has its own, which nobody averages."""

from dataclasses import dataclass, field

import pytest
from federation import Federation
from oracle import Factors, Oracle
from workloads import conv, make, mlp, shards

from fedrac.algorithm.method import Method
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

FEDSA = Method(train="both", side="right", fresh=False, merge=False, personal=("*:B",))
METHODS = {
    "FedSA-LoRA": FEDSA,
    "A stays": Method(train="both", side="right", fresh=False, merge=False, personal=("*:A",)),
    "a personal head on a chain": Method(personal=("*bias:D",)),
    "FedProx's term, too": Method(train="both", side="right", fresh=False, merge=False, personal=("*:B",), prox=0.7),
}


@dataclass
class Personal(Oracle):
    """A client's own factors take the place of the carried ones while it trains; the server never sees them."""

    own: dict[int, Factors] = field(default_factory=dict)
    kept: Factors = field(default_factory=dict)

    def _client(self, client: int) -> tuple[Factors, float]:
        self.kept = self.own.get(client, {})
        whole, self.carried = self.carried, {**self.carried, **{k: f for k, f in self.kept.items() if k[-1] != "D"}}
        factors, loss = super()._client(client)
        self.carried, self.kept = whole, {}
        self.own[client] = {key: f for key, f in factors.items() if self.method.is_personal(key)}
        return factors, loss

    def _first(self, round_: int) -> Factors:
        return {**super()._first(round_), **{k: f for k, f in self.kept.items() if k[-1] == "D"}}

    def _server(self, found: list[Factors], shares: list[float]) -> None:
        before = {**self._first(self.round), **self.carried}
        super()._server([{k: before[k] if k in self.own_keys(f) else v for k, v in f.items()} for f in found], shares)

    def own_keys(self, factors: Factors) -> set[str]:
        return {key for key in factors if self.method.is_personal(key)}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("factory", [mlp, conv], ids=lambda f: f.__name__)
def test_methods_and_layers(factory, name):
    """Clients take part in some rounds only, and go on from where their own last round left them."""
    method, local = METHODS[name], LocalSpec("adamw", 0.02, batch_size=5, epochs=2, l2=0.1, clip=0.5)
    f = Federation(make(factory), shards(), method, local, cohort=3, eta=0.8, weighting="examples")
    ranks = {b.name: b.rank for b in f.blocks}
    oracle = Personal(f.workload, f.shards, ranks, f.alpha, method, f.sketch, local, 3, f.eta, True)
    begin = f.weights()
    for _ in range(6):
        found, (factors, losses) = f.round(), oracle.step()
        for key, stacked in found.factors.items():
            for place, each in enumerate(factors):
                assert float((stacked[place] - each[key]).abs().max()) < 1e-9
        assert found.losses.tolist() == pytest.approx(losses, rel=1e-9)
        for key, expected in oracle.model().items():
            assert float((f.weights()[key] - expected).abs().max()) < 1e-9
    own = {b.name for b in f.blocks if b.rank is None and method.is_personal(b.key("D"))}
    assert all(f.weights()[key].equal(begin[key]) for key in own)  # the shared model's stay where they were
    assert len(f.own) > 3
