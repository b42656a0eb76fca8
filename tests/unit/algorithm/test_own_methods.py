"""Methods of one's own: what their functions return is checked, and what they compute is what a run computes."""

import math
from dataclasses import replace

import pytest
import torch
from federation import Federation
from oracle import Factors, Oracle
from own_methods import Own, Returns
from workloads import make, mlp, shards

from fedrac.algorithm import returned
from fedrac.algorithm.method import Method
from fedrac.training.optimizer import LocalSpec

GOOD = torch.zeros(2, 3)


class OwnOracle(Oracle):
    """Sorts the clients' factors itself, and keeps what the last round added to every weight."""

    def _left(self, round_: int) -> bool:
        return round_ % 3 != 0

    def _server(self, found: list[Factors], shares: list[float]) -> None:
        mean = {key: torch.stack([f[key] for f in found]).sort(0).values[1:-1].mean(0) for key in found[0]}
        whole = {**self._frozen(self.round), **mean}
        last = getattr(self, "last", {})
        self.last = {name: self._update(name, whole) + 0.25 * last.get(name, 0.0) for name in self.ranks}
        self.weights = {
            name: w + self.eta * self.last[name] if name in self.last else w for name, w in self.weights.items()
        }


def test_own_functions_against_dense_models():
    work = make(mlp)
    method, local = Own(inertia=0.25), LocalSpec("adamw", 0.05, epochs=2, batch_size=3)
    f = Federation(work, shards(), method, local, cohort=4, eta=0.7)
    ranks = {block.name: block.rank for block in f.blocks}
    oracle = OwnOracle(work, f.shards, ranks, f.alpha, method, f.sketch, local, 4, f.eta, False)
    for _ in range(6):
        f.round()
        oracle.step()
        for name, expected in oracle.model().items():
            torch.testing.assert_close(f.weights()[name], expected, rtol=0, atol=1e-12)


def test_where_the_sides_begin_anew():
    assert Own().sides == ("left", "right") and Own().period == 3
    assert [returned.of_round(Own(), t).side for t in range(1, 7)] == ["left", "left", "right"] * 2


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (3, r"at\(2\) returned a int, expected a RoundMethod"),
        (replace(Method().at(2), side="top"), r"at\(2\) returned side='top', expected left or right"),
        (replace(Method().at(2), side="both"), r"at\(2\) returned side='both', expected left or right"),
        (replace(Method().at(2), train="full"), r"at\(2\) returned train='full', expected factor or both"),
        (replace(Method().at(2), side="right"), r"side=right, expected what at\(1\) returned, as its period is 1"),
    ],
)
def test_what_at_may_not_return(what, message):
    with pytest.raises(ValueError, match=message):
        returned.of_round(Returns(what=what, of="at"), 2)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (GOOD, r"own_methods.Returns.mean returned a Tensor, expected a dict of \['A'\]"),
        ({"B": GOOD}, r"mean returned \['B'\] for w, expected a dict of \['A'\]"),
        ({"A": 1.0}, r"mean returned a float, expected a tensor for A of w: floating-point \(2, 3\)"),
        ({"A": GOOD.mT}, r"returned torch.float32 \(3, 2\) for A of w, expected floating-point \(2, 3\)"),
        ({"A": GOOD.long()}, r"returned torch.int64 \(2, 3\) for A of w"),
        ({"A": GOOD + math.nan}, r"mean returned numbers that are not finite for A of w"),
    ],
)
def test_what_mean_may_not_return(what, message):
    with pytest.raises(ValueError, match=message):
        returned.of_mean(Returns(), "w", what, {"A": (2, 3)})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (GOOD, "step returned a Tensor, expected a tensor and a dict of those that are carried on"),
        ((GOOD, {"m": GOOD}), "step returned 'm' to carry on, expected names that begin with w/"),
        ((GOOD.double(), {}), r"torch.float64 \(2, 3\) for w, expected torch.float32 \(2, 3\)"),
        ((GOOD, {"w/m": GOOD[0]}), r"torch.float32 \(3,\) for w/m"),
        ((GOOD / 0, {}), "step returned numbers that are not finite for w"),
    ],
)
def test_what_step_may_not_return(what, message):
    with pytest.raises(ValueError, match=message):
        returned.of_step(Returns(), "w", what, GOOD)


def test_a_step_of_ones_own_is_no_plain_step():
    assert Method().steps_plainly and not Own().steps_plainly
    with pytest.raises(ValueError, match=r"a step of the method's own with factors that are carried.*set method.merge"):
        Returns(train="both", fresh=False, merge=False, average="products")
