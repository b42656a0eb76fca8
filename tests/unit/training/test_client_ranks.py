"""Clients of different rank against dense models: a client of rank r_c has narrow factors and knows no others."""

from dataclasses import dataclass, field

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle, agree
from workloads import conv, make, mlp, shards, text

from fedrac.algorithm.client_ranks import shapes_of_rank
from fedrac.algorithm.flexlora import FlexLoRA
from fedrac.algorithm.hetlora import HetLoRA
from fedrac.algorithm.means import Cohort
from fedrac.algorithm.method import Method
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

RANKS = (1, 2, 3)
METHODS = {
    "nested ranks": Method(ranks=RANKS),
    "nested ranks, right": Method(side="right", ranks=RANKS),
    "AsymmLoRA": Method(fresh=False, merge=False, ranks=RANKS),
    "FedIT": Method(train="both", side="right", fresh=False, merge=False, ranks=RANKS),
    "HetLoRA": HetLoRA(ranks=RANKS),
    "FlexLoRA": FlexLoRA(ranks=RANKS),
}


@dataclass
class Ranked(Oracle):
    """Every client trains factors of its own shapes; the server fills them up, and counts who has each column."""

    asked: list[int] = field(default_factory=list)
    own: int | None = None

    def step(self):
        self.asked = []
        return super().step()

    def _client(self, client: int) -> tuple[Factors, float]:
        self.asked.append(client)
        self.own, whole = self._rank(client), dict(self.carried)
        self.carried = self._narrow(whole)
        factors, loss = super()._client(client)
        self.own, self.carried = None, whole
        return {key: self._filled(key, factor) for key, factor in factors.items()}, loss

    def _narrow(self, factors: Factors) -> Factors:
        cut = {"A": lambda f: f[: self.own], "B": lambda f: f[:, : self.own], "D": lambda f: f}
        return {key: cut[key[-1]](factor) for key, factor in factors.items()}

    def _filled(self, key: str, factor: torch.Tensor) -> torch.Tensor:
        if (rank := self.ranks[key[:-2]]) is None:
            return factor
        m, n = self._shape(key[:-2])
        whole = torch.zeros((rank, n) if key[-1] == "A" else (m, rank), dtype=torch.float64)
        whole[: factor.shape[0], : factor.shape[1]] = factor
        return whole

    def _frozen(self, round_: int) -> Factors:
        return self._narrow(super()._frozen(round_))

    def _first(self, round_: int) -> Factors:
        return self._narrow(super()._first(round_))

    def _mean(self, name: str, found: list[Factors], p: list[float]) -> Factors:
        a, b = ([f.get(f"{name}:{letter}") for f in found] for letter in "AB")
        if isinstance(self.method, FlexLoRA):
            u, s, v = torch.linalg.svd(sum(w * y @ x for w, x, y in zip(p, a, b, strict=True)))
            rank = len(a[0])
            return {f"{name}:A": v[:rank], f"{name}:B": u[:, :rank] @ torch.diag(s[:rank])}
        if isinstance(self.method, HetLoRA):
            norms = [(y @ x).square().sum().sqrt() for x, y in zip(a, b, strict=True)]
            p = [norm / sum(norms) for norm in norms]
        mean = {}
        for letter, factors in (("A", a), ("B", [None if y is None else y.mT for y in b])):
            if factors[0] is None:
                continue
            rows, pairs = [], list(zip(self.asked, p, strict=True))
            for j in range(len(factors[0])):
                has = [w * (isinstance(self.method, HetLoRA) or self._rank(c) > j) for c, w in pairs]
                before = self.carried.get(f"{name}:{letter}", self._filled(f"{name}:{letter}", torch.zeros(0, 0)))
                old = (before if letter == "A" else before.mT)[j]
                total = 1.0 if isinstance(self.method, HetLoRA) else sum(has)
                rows.append(sum(w * f[j] for w, f in zip(has, factors, strict=True)) / total if total else old)
            mean[f"{name}:{letter}"] = torch.stack(rows) if letter == "A" else torch.stack(rows).mT
        return mean

    def _rank(self, client: int) -> int:
        return self.method.client_rank(client, self.sketch.seed)

    def _server(self, found: list[Factors], p: list[float]) -> None:
        frozen = self._frozen(self.round)
        for name, rank in self.ranks.items():
            if rank is None:
                self.weights[name] = self.weights[name] + self.eta * sum(
                    w * f[f"{name}:D"] for w, f in zip(p, found, strict=True)
                )
                continue
            mean = self._mean(name, found, p)
            if self.method.merge:
                self.weights[name] = self.weights[name] + self.eta * self._update(name, {**frozen, **mean})
            for key, old in self.carried.items():
                self.carried[key] = old + self.eta * (mean[key] - old) if key in mean else old


def run(factory, method, local, rounds=4, eta=0.8):
    f = Federation(make(factory), shards(), method, local, {"*": 3}, cohort=3, eta=eta, weighting="examples")
    ranks = {block.name: block.rank for block in f.blocks}
    agree(f, Ranked(f.workload, f.shards, ranks, f.alpha, method, f.sketch, local, 3, eta, True), rounds)
    return f


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_methods(method):
    local = LocalSpec("adamw", 0.02, batch_size=5, epochs=2, weight_decay=0.3, l2=0.1, clip=0.5)
    run(mlp, method, local, eta=1.0 if isinstance(method, FlexLoRA) else 0.8)


@pytest.mark.parametrize("factory", [conv, text], ids=lambda f: f.__name__)
@pytest.mark.parametrize("side", ["left", "right"])
def test_layers(factory, side):
    run(factory, Method(side=side, ranks=(1, 2)), LocalSpec("adamw", 0.02, batch_size=5))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_theory_step_projects_on_the_columns_that_a_client_has(side):
    run(mlp, Method(side=side, ranks=RANKS), LocalSpec(lr=0.01, batch_size=5, epochs=2, precondition=True))


def test_at_equal_ranks_it_is_the_plain_method():
    local = LocalSpec("adamw", 0.02, batch_size=5)
    for changes in ({}, {"train": "both", "fresh": False, "merge": False}):
        plain, ranked = (
            Federation(make(mlp), shards(), Method(**changes, ranks=ranks), local, {"*": 3}, cohort=3)
            for ranks in (None, (3,))
        )
        for _ in range(3):
            plain.round()
            ranked.round()
        for name, value in plain.weights().items():
            torch.testing.assert_close(ranked.weights()[name], value, rtol=0, atol=1e-14)


def test_a_column_that_nobody_trained_stays():
    method, start = Method(ranks=RANKS), torch.full((3, 2), 7.0)
    found = torch.ones(2, 3, 2)
    found[0, 1:], found[1, 2:] = 0, 0
    shares = torch.tensor([0.25, 0.75]).double().numpy()
    mean = method.mean({"A": found}, Cohort(shares, ranks=[1, 2], start={"A": start}))["A"]
    assert mean[0].tolist() == mean[1].tolist() == [1, 1] and mean[2].tolist() == [7, 7]


def test_what_is_sent_of_each_factor():
    shapes = {"w:A": (3, 5), "w:B": (4, 3), "e:Z": (2, 3, 6), "b:D": (4,)}
    assert shapes_of_rank(shapes, 2) == {"w:A": (2, 5), "w:B": (4, 2), "e:Z": (2, 2, 6), "b:D": (4,)}
    assert shapes_of_rank(shapes, None) == shapes


def test_flexlora_keeps_the_best_approximation_of_the_mean_model():
    """Eckart-Young: no product of rank 2 is nearer to the mean of the products; of rank 4 it is the mean itself."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, *shape, generator=draw).double() for shape in ((2, 6), (5, 2)))
    target = (b @ a).mean(0)
    found = FlexLoRA(ranks=(2,)).mean({"A": a, "B": b}, Cohort(torch.full((2,), 0.5).double().numpy()))
    rest = torch.linalg.svdvals(target)[2:]
    assert float((target - found["B"] @ found["A"]).norm()) == pytest.approx(float(rest.norm()), rel=1e-12)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"ranks": (2, 0)}, r"method.ranks=\[2, 0\]: 0 is no rank"),
        ({"ranks": (2,), "train": "full"}, "no factors that"),
    ],
)
def test_ranks_that_are_none(choices, message):
    with pytest.raises(ValueError, match=message):
        Method(**choices)
