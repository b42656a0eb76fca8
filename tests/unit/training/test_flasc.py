"""FLASC against the oracle: dense factors with zeros in them, sorted by hand, and the server's step written out."""

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle, agree
from workloads import conv, make, mlp, shards, text

from fedrac.algorithm.flasc import Flasc
from fedrac.algorithm.method import Method
from fedrac.algorithm.server_optimizer import ServerOptimizer
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def sparse(factors: Factors, density: float) -> Factors:
    """With all entries zero but the largest ones of all A and B together; of equal ones the first, by name."""
    pairs = sorted(key for key in factors if key[-1] in "AB")
    entries = [(-abs(x), key, place) for key in pairs for place, x in enumerate(factors[key].flatten().tolist())]
    found = {key: torch.zeros_like(value) if key in pairs else value for key, value in factors.items()}
    for _, key, place in sorted(entries)[: max(round(density * len(entries)), 1)]:
        found[key].view(-1)[place] = factors[key].flatten()[place]
    return found


class Sparse(Oracle):
    """P = P + step(mean of the largest entries of what clients did to the largest entries of P)."""

    def step(self):
        self.whole, self.carried = self.carried, sparse(self.carried, self.method.download_density)
        return super().step()

    def model(self) -> Factors:
        """The dense parameters of the largest entries of P."""
        every = {**self._zero(), **sparse(self.carried, self.method.download_density)}
        return self._dense(every)

    def _server(self, found: list[Factors], shares: list[float]) -> None:
        start, mean = {**self._zero(), **self.carried}, {}
        for share, factors in zip(shares, found, strict=True):
            went = sparse({key: value - start[key] for key, value in factors.items()}, self.method.upload_density)
            mean = {key: mean.get(key, 0.0) + share * value for key, value in went.items()}
        for key, update in mean.items():
            if key in self.whole:
                self.whole[key] = self.whole[key] + self.eta * self._stepped(key, update)
            else:
                self.weights[key[:-2]] = self.weights[key[:-2]] + self.eta * self._stepped(key, update)
        self.carried = self.whole

    def _stepped(self, key: str, update: torch.Tensor) -> torch.Tensor:
        """Adam of the server (FedAdam), where the method has it."""
        if (adam := self.method.optimizer) is None:
            return update
        first = (torch.zeros_like(update), torch.full_like(update, adam.tau**2))
        m, v = getattr(self, "moments", {}).get(key, first)
        m, v = adam.beta1 * m + (1 - adam.beta1) * update, adam.beta2 * v + (1 - adam.beta2) * update**2
        self.moments = {**getattr(self, "moments", {}), key: (m, v)}
        return adam.lr * m / (v.sqrt() + adam.tau)


@pytest.mark.parametrize("optimizer", [None, ServerOptimizer("adam", 0.05)], ids=["mean", "adam"])
@pytest.mark.parametrize("factory", [mlp, conv, text], ids=lambda f: f.__name__)
def test_layers(factory, optimizer):
    method = Flasc(download_density=0.8, upload_density=0.3, optimizer=optimizer)
    local = LocalSpec("adamw", 0.02, batch_size=5, epochs=2, clip=0.5)
    f = Federation(make(factory), shards(), method, local, cohort=3, eta=0.8, weighting="examples")
    ranks = {block.name: block.rank for block in f.blocks}
    agree(f, Sparse(f.workload, f.shards, ranks, f.alpha, method, f.sketch, local, 3, f.eta, True), rounds=4)


@pytest.mark.parametrize("choices", [{}, {"train": "factor"}], ids=["both", "one"])
def test_with_all_entries_it_is_the_dense_method(choices):
    """FedAvg-LoRA; and FFA-LoRA, of which nothing is left to send but one factor."""
    dense = {"train": "both", "side": "right", "fresh": False, "merge": False, **choices}
    methods = Method(**dense), Flasc(download_density=1.0, upload_density=1.0, **choices)
    plain, found = (Federation(make(mlp), shards(), method, LocalSpec("sgd", 0.05), cohort=3) for method in methods)
    for _ in range(3):
        plain.round(), found.round()
    for name, value in plain.weights().items():
        torch.testing.assert_close(found.weights()[name], value, rtol=0, atol=1e-14)


def test_the_server_forgets_nothing():
    """What clients are not sent is still in the model: one entry of the factors moves, the others stay."""
    method = Flasc(download_density=0.01, upload_density=1e-9)
    f = Federation(make(mlp), shards(), method, LocalSpec("sgd", 0.05), cohort=1)
    before = f.state.factors
    f.round()
    assert sum(int((value != before[key]).sum()) for key, value in f.state.factors.items()) == 1
    assert sum(int((value != 0).sum()) for value in f.received(f.state).factors.values()) < 5


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"upload_density": 0.0}, r"method.upload_density=0.0 must lie in \(0, 1\]"),
        ({"download_density": 1.5}, r"method.download_density=1.5 must lie in \(0, 1\]"),
        ({"merge": True}, "set method.merge=false method.average=factors, and one method.side"),
        ({"average": "products"}, "set method.merge=false method.average=factors, and one method.side"),
        ({"train": "factor", "side": "alternate"}, "and one method.side"),
        ({"ranks": (1, 2)}, "set method.ranks=null"),
        ({"personal": ("*:B",)}, r"set method.ranks=null method.personal=\[\]"),
    ],
)
def test_what_it_does_not_take(choices, message):
    with pytest.raises(ValueError, match=message):
        Flasc(**choices)
