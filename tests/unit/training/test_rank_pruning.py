"""HetLoRA's pruning of ranks against the oracle: the penalty by automatic differentiation, tails cut off by hand."""

from dataclasses import dataclass, field

import pytest
import torch
from federation import Federation
from oracle import Factors, agree
from test_client_ranks import Ranked
from workloads import conv, make, mlp, shards

from fedrac.algorithm.hetlora import HetLoRA
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@dataclass
class Pruning(Ranked):
    """A client whose tail is smaller than it was sends what is left of it, and has that rank from then on."""

    lowered: dict[int, int] = field(default_factory=dict)

    def _rank(self, client: int) -> int:
        return self.lowered.get(client, min(super()._rank(client), 3))  # no layer has more

    def _tail(self, factors: Factors, rank: int) -> torch.Tensor:
        """``sum |B_tail| |A_tail|`` over layers, of columns from decay * rank to rank."""
        kept = max(int(self.method.decay * rank), 1)
        pairs = [name for name, r in self.ranks.items() if r is not None]
        return sum(factors[f"{n}:B"][:, kept:rank].norm() * factors[f"{n}:A"][kept:rank].norm() for n in pairs)  # type: ignore[return-value]

    def _linear(self, client, trained):
        return self.method.penalty * self._tail(trained, self.own)

    def _server(self, found, p):
        counted = []
        for client, factors in zip(self.asked, found, strict=True):
            rank = self._rank(client)
            if float(self._tail(factors, rank)) < float(self._tail(self.carried, rank)):
                self.own = self.lowered[client] = max(int(self.method.decay * rank), 1)
                factors = {key: self._filled(key, value) for key, value in self._narrow(factors).items()}
            counted.append(factors)
        self.own = None
        super()._server(counted, p)


@pytest.mark.parametrize(("factory", "decay"), [(mlp, 0.5), (mlp, 0.9), (conv, 0.9)])
def test_ranks_go_down_where_tails_shrink(factory, decay):
    method = HetLoRA(ranks=(2, 3), penalty=0.3, decay=decay)
    local = LocalSpec("sgd", 0.1, batch_size=5, epochs=3, clip=2.0)
    f = Federation(make(factory), shards(), method, local, {"*": 3}, cohort=3, eta=0.8)
    ranks = {block.name: block.rank for block in f.blocks}
    oracle = Pruning(f.workload, f.shards, ranks, f.alpha, method, f.sketch, local, 3, 0.8, False)
    agree(f, oracle, rounds=6)
    assert f.state.ranks == oracle.lowered and len(oracle.lowered) > 1
    assert all(1 <= rank < 3 for rank in oracle.lowered.values())


def test_the_gradient_is_that_of_the_penalty():
    """Of each client by itself; nothing at all where B is zero, as it is at first."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, *shape, generator=draw).double().requires_grad_() for shape in ((3, 6), (5, 3)))
    with torch.no_grad():
        b[3] = 0
    method, ranks = HetLoRA(ranks=(), penalty=0.7, decay=0.5), [1, 2, 3, 3]
    tails = [(1, 1), (1, 2), (1, 3), (1, 3)]
    total = sum(b[c, :, i:j].norm() * a[c, i:j].norm() for c, (i, j) in enumerate(tails))
    expected = torch.autograd.grad(0.7 * total, [a, b])
    with torch.no_grad():
        found = method.local_gradient({"A": a, "B": b}, ranks)
    for letter, value in zip("AB", expected, strict=True):
        torch.testing.assert_close(found[letter], value, rtol=0, atol=1e-14)
    assert not found["A"][0].any() and not found["B"][3].any()
    assert method.local_gradient({"D": a}, ranks) == {} == HetLoRA(ranks=()).local_gradient({"A": a, "B": b}, ranks)


def test_whose_tail_has_become_smaller():
    """Of all layers together; a rank of 1 has no tail, and what was zero cannot become less."""
    method = HetLoRA(ranks=(), decay=0.5)
    start = {"v:A": torch.ones(4, 2), "v:B": torch.ones(3, 4), "w:A": torch.ones(2, 5), "w:B": torch.zeros(2, 2)}
    found = {key: value.repeat(4, 1, 1) for key, value in start.items()}
    found["v:B"][0, :, 2:], found["v:B"][1, :, :2], found["v:A"][2, 3] = 0.5, 0.1, 0.0
    assert method.ranks_after([4, 4, 4, 1], start, found) == [2, 4, 2, 1]
    found["w:B"][2] = 9.0  # of a layer of rank 2, where a rank of 4 has no tail
    assert method.ranks_after([4, 4, 2, 3], start, found) == [2, 4, 2, 3]
    assert HetLoRA(ranks=()).ranks_after([4, 4, 4, 1], start, found) == [4, 4, 4, 1]


def test_by_default_nothing_is_pruned():
    local = LocalSpec("sgd", 0.05, batch_size=5)
    f = Federation(make(mlp), shards(), HetLoRA(ranks=(2, 3)), local, {"*": 3}, cohort=3)
    for _ in range(3):
        f.round()
    assert f.state.ranks == {}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"decay": 0.0}, r"method.decay=0.0 must lie in \(0, 1\]"),
        ({"decay": 1.5}, r"method.decay=1.5 must lie in \(0, 1\]"),
        ({"penalty": -1.0, "decay": 0.5}, "method.penalty=-1.0 must not be negative"),
        ({"penalty": 0.1}, "set it below 1"),
        ({"decay": 0.5, "ranks": None}, "needs ranks of clients: set method.ranks"),
    ],
)
def test_what_it_does_not_take(choices, message):
    with pytest.raises(ValueError, match=message):
        HetLoRA(**{"ranks": (1, 2), **choices})
