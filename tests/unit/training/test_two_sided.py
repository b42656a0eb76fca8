"""Two-sided updates ``s L Z R`` against the oracle's dense matrices, and as the general case of the one-sided ones."""

from dataclasses import dataclass, field

import pytest
import torch
from federation import Federation
from oracle import Oracle, agree
from torch import Tensor
from workloads import Workload, conv, grouped, linear, make, mlp, shards, text, tied

from fedrac.algorithm import basis
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.sketch import SketchSpec, projection
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

BOTH = Method(side="both")
FED_SB = Method(side="both", fresh=False, merge=False)
P, K = 2, 3


@dataclass
class TwoSided(Oracle):
    """The oracle with L (m, p), R (k, n) and Z (p, k) under the letters B, A and Z; a long side is the identity."""

    columns: int = K
    fixed: int = 0
    basis: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.method.merge:
            self.carried = {key: f for key, f in self._first(1).items() if key[-1] != "D"}

    def _long(self, name: str) -> tuple[bool, bool]:
        """Whether L and R are the identity."""
        m, n = self._shape(name)
        return self.ranks[name] >= m, self.columns >= n

    def _frozen(self, round_: int) -> dict[str, Tensor]:
        found, number = {}, round_ if self.method.fresh else 1
        for name, rank in self.ranks.items():
            if rank is None:
                continue
            (m, n), (no_l, no_r) = self._shape(name), self._long(name)
            found[f"{name}:B"] = torch.eye(m, dtype=torch.float64) if no_l else self._left_of(name, number, m, n, rank)
            if no_r:
                found[f"{name}:A"] = torch.eye(n, dtype=torch.float64)
            else:
                found[f"{name}:A"] = self._right_of(name, number, m, n, named=name if no_l else f"{name}:A")
        return found

    def _left_of(self, name: str, number: int, m: int, n: int, rank: int) -> Tensor:
        drawn = self.sketch.draw("left", number, name, m, n, rank)
        layer = self.workload.model.get_submodule(name.rpartition(".")[0])
        if getattr(layer, "padding_idx", None) is not None:
            drawn[layer.padding_idx] = 0.0
        return drawn

    def _right_of(self, name: str, number: int, m: int, n: int, named: str) -> Tensor:
        if not self.fixed:
            return self.sketch.draw("right", number, named, m, n, self.columns)
        rows = self.basis[f"{name}:A"]
        if self.columns == self.fixed:
            return rows
        drawn = SketchSpec("gaussian", self.sketch.seed).draw("right", number, named, m, n, self.columns - self.fixed)
        q, r = torch.linalg.qr((drawn - drawn @ rows.T @ rows).T)
        return torch.cat([rows, (q * r.diagonal().sign()).T])  # the factor of Cholesky has a positive diagonal

    def _first(self, round_: int) -> dict[str, Tensor]:
        factors = self._zero()
        for name, rank in self.ranks.items():
            if rank is not None:
                (m, n), (no_l, no_r) = self._shape(name), self._long(name)
                letter = "D" if no_l and no_r else "B" if no_l else "A" if no_r else "Z"
                core = torch.zeros(m if no_l else rank, n if no_r else self.columns, dtype=torch.float64)
                factors[f"{name}:{letter}"] = core.reshape(self.weights[name].shape) if letter == "D" else core
        return factors

    def _update(self, name: str, factors: dict[str, Tensor]) -> Tensor:
        rank, (no_l, no_r) = self.ranks[name], self._long(name) if self.ranks[name] else (True, True)
        if no_l and no_r:
            return factors[f"{name}:D"]
        s = self.alpha / rank if not no_l else self.alpha if self.fixed else self.alpha / self.columns
        b, a = factors[f"{name}:B"], factors[f"{name}:A"]
        z = factors.get(f"{name}:Z", torch.eye(b.shape[1], a.shape[0], dtype=torch.float64))
        return (s * b @ z @ a).reshape(self.weights[name].shape)

    def _theory(self, key: str, g: Tensor, frozen: dict[str, Tensor]) -> Tensor:
        name, letter = key.rsplit(":", 1)
        if letter == "D":
            return g
        no_l, _ = self._long(name)
        s = self.alpha if no_l and self.fixed else self.alpha / (self.columns if no_l else self.ranks[name])
        b, a = frozen[f"{name}:B"], frozen[f"{name}:A"]
        b, a = (torch.eye(len(b.T)) if letter == "B" else b), (torch.eye(len(a)) if letter == "A" else a)
        b, a = b.double(), a.double()
        return torch.linalg.pinv(b.mT @ b) @ g @ torch.linalg.pinv(a @ a.mT) / s**2


def rows_for(work: Workload, fixed: int) -> dict[str, Tensor]:
    """An orthonormal basis for every weight that is longer than that."""
    found = {}
    for name, value in work.model.named_parameters():
        n = value[0].numel() if value.ndim > 1 else 0
        if n > fixed > 0:
            found[f"{name}:A"] = basis.random(4, name, n, fixed)
    return found


def check(factory, method: Method, local: LocalSpec, fixed: int = 0, layers=None, law="popcount", rounds: int = 4):
    work, layers = make(factory), layers or {"*": P}
    given = rows_for(work, fixed)
    f = Federation(
        work, shards(), method, local, layers, cohort=3, eta=0.8, weighting="examples", law=law, columns=K, fixed=fixed,
        basis=given,
    )  # fmt: skip
    ranks = {b.name: None if len(b.shape) == 1 or b.name in work.full else P for b in f.blocks}
    oracle = TwoSided(
        work, f.shards, ranks, f.alpha, method, f.sketch, local, 3, f.eta, True, columns=K, fixed=fixed, basis=given
    )
    agree(f, oracle, rounds)
    return f


OPTIMIZERS = {
    "adamw": LocalSpec("adamw", 0.02, batch_size=5, weight_decay=0.3),
    "theory": LocalSpec(lr=0.05, batch_size=5, precondition=True),
    "all": LocalSpec(lr=0.03, batch_size=5, l2=0.2, clip=0.3, momentum=0.5),
}


@pytest.mark.parametrize("fixed", [0, 2, 3])
@pytest.mark.parametrize("factory", [mlp, conv, grouped, text, tied], ids=lambda f: f.__name__)
def test_layers(factory, fixed):
    f = check(factory, BOTH, OPTIMIZERS["adamw"], fixed)
    assert any(b.columns == K for b in f.blocks)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fixed", [0, 2])
@pytest.mark.parametrize("factory", [mlp, conv], ids=lambda f: f.__name__)
def test_optimizers(factory, fixed, optimizer):
    check(factory, BOTH, OPTIMIZERS[optimizer], fixed)


@pytest.mark.parametrize("law", ["haar", "scaled_haar", "gaussian"])
def test_laws(law):
    check(mlp, BOTH, OPTIMIZERS["adamw"], 2, law=law)


@pytest.mark.parametrize("fixed", [0, 2, 3])
def test_both_sides_once_for_the_run(fixed):
    check(mlp, FED_SB, OPTIMIZERS["adamw"], fixed)


def test_padding_rows_never_move():
    f = Federation(make(text), shards(), BOTH, LocalSpec(lr=0.5), columns=K)
    before = f.state.weights["0.weight"]
    f.round()
    moved = (f.state.weights["0.weight"] - before).abs().amax(1) > 0
    assert not moved[2] and moved.sum() > 1


@pytest.mark.parametrize("law", ["popcount", "haar"])
def test_one_sided_methods_are_settings(law):
    """With an identity on one side: the very bits of the left and the right sketch."""
    local = LocalSpec("adamw", 0.02, batch_size=5)
    for side, layers, columns in (("left", {"*": P}, None), ("right", {"*": 99}, P)):
        one = Federation(make(mlp), shards(), Method(side=side), local, {"*": P}, law=law)
        both = Federation(make(mlp), shards(), BOTH, local, layers, law=law, columns=columns)
        for _ in range(3):
            one.round(), both.round()
        assert all(torch.equal(both.state.weights[k], v) for k, v in one.state.weights.items())


def test_the_projected_step_projects_on_both_sides():
    """``W+ = W - gamma H_L grad f H_R``, whatever the scales."""
    local = LocalSpec(lr=0.1, precondition=True, sampling="full")
    f = Federation(make(linear), shards((7,)), BOTH, local, alpha=5.0, columns=K)
    sketches, w = f.sketches(1).values, f.state.weights["weight"]
    leaf = w.clone().requires_grad_()
    x, y = (v[:7] for v in (f.workload.inputs, f.workload.targets))
    loss = f.workload.loss(x @ leaf.T, y).mean()
    (g,) = torch.autograd.grad(loss, [leaf])
    f.round()
    expected = w - 0.1 * projection(sketches["weight:B"], "left") @ g @ projection(sketches["weight:A"], "right")
    torch.testing.assert_close(f.state.weights["weight"], expected, rtol=1e-12, atol=1e-12)


def test_fixed_rows_stay_and_fresh_ones_lie_in_their_complement():
    given = {"weight:A": basis.random(1, "w", 6, 2)}
    f = Federation(make(linear), shards(), BOTH, columns=4, fixed=2, basis=given)
    first, second = (f.sketches(number).values["weight:A"] for number in (1, 2))
    for rows in (first, second):
        torch.testing.assert_close(rows @ rows.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
        assert torch.equal(rows[:2], given["weight:A"])
    assert not torch.allclose(first[2:], second[2:])


def test_a_pair_is_rank_and_columns_of_a_layer():
    """``[p, k]`` has the bits of p with ``adapt.columns=k``, and layers may differ."""
    model = make(mlp).model
    names = [b.name for b in plan_blocks(model, AdaptSpec({"*": P}, columns=K), BOTH)]
    one, pair = (
        plan_blocks(model, AdaptSpec(layers, columns=c), BOTH) for layers, c in (({"*": P}, K), ({"*": (P, K)}, 9))
    )
    assert [b.description() for b in one] == [b.description() for b in pair]
    first = names[0].rpartition(".")[0]
    mixed = plan_blocks(model, AdaptSpec({"*": P, first: (3, 2)}, columns=K), BOTH)
    assert [(b.rank, b.columns) for b in mixed] == [(3, 2), *[(b.rank, b.columns) for b in one[1:]]]


@pytest.mark.parametrize("rank", [(2, 0), (2, True), (0, 2), (2.5, 2)])
def test_pairs_that_are_none(rank):
    with pytest.raises(ValueError, match="two integers"):
        AdaptSpec({"*": rank})


def test_pairs_are_of_two_sided_updates_and_leave_room_for_fresh_rows():
    with pytest.raises(ValueError, match=r"is of a two-sided update, and method\.side=left"):
        plan_blocks(make(mlp).model, AdaptSpec({"*": (2, 3)}), Method())
    with pytest.raises(ValueError, match=r"adapt\.fresh_columns=3"):
        AdaptSpec({"*": (2, 3)}, columns=8, basis="random", fresh_columns=3)
