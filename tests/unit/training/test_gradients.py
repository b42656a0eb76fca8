"""Clipping; L2 and the theory step are held against the oracle and the invariants."""

import pytest
import torch
from federation import Federation, gradient
from torch import nn
from workloads import EXAMPLES, Workload, linear, make, mlp, shards

from fedrac.algorithm.method import Method
from fedrac.training.gradients import clip_per_client
from fedrac.training.optimizer import LocalSpec


def test_each_client_is_clipped_by_its_own_norm_over_all_factors():
    g = torch.Generator().manual_seed(0)
    gradients = {k: torch.randn(3, *s, generator=g).double() for k, s in (("a", (2, 4)), ("b", (5,)))}
    scale = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    gradients = {k: v * scale.view(-1, *[1] * (v.ndim - 1)) for k, v in gradients.items()}
    before = {k: v.clone() for k, v in gradients.items()}
    clip_per_client(gradients, 1.0)
    norms = sum(v.flatten(1).square().sum(1) for v in gradients.values()).sqrt()
    torch.testing.assert_close(norms[1:], torch.ones(2, dtype=torch.float64))
    for k, v in gradients.items():
        assert torch.equal(v[0], before[k][0])  # a short gradient stays as it is, to the last bit
        assert torch.nn.functional.cosine_similarity(v.flatten(1), before[k].flatten(1)).min() > 1 - 1e-12


def test_a_zero_gradient_is_clipped_to_zero():
    gradients = {"a": torch.zeros(2, 3)}
    clip_per_client(gradients, 0.5)
    assert not gradients["a"].any()


class Parallel(nn.Module):
    """Two biases with one and the same gradient, which automatic differentiation hands out as one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.a(x) + self.b(x)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_gradients_that_share_memory(batch_size):
    x, y = torch.randn(EXAMPLES, 6), torch.randn(EXAMPLES, 3)
    for loss in (lambda o, t: (o - t).square().sum(1), lambda o, t: o.sum(1)):  # the second one: an expanded tensor
        work = Workload(Parallel(), x, y, loss, ("*.bias",))
        local = LocalSpec(lr=1.0, batch_size=batch_size, clip=0.125, l2=0.5)
        f = Federation(work, shards(), layers={"*": "frozen"}, local=local)
        found = f.train([0]).factors  # one example, one step
        assert torch.equal(found["a.bias:D"], found["b.bias:D"])
        norm = sum(v.square().sum() for v in found.values()).sqrt()
        torch.testing.assert_close(norm, torch.tensor(0.125))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("train", ["factor", "both", "full"])
def test_l2_is_the_gradient_of_the_dense_penalty_of_weights_only(train, side):
    """One step with the penalty, less one without it: by hand for a linear layer and a bias."""
    method, found = Method(train=train, side=side), {}
    for l2 in (0.0, 0.3):
        f = Federation(make(mlp), shards(), method, LocalSpec(lr=1.0, sampling="full", l2=l2))
        found[l2] = f.train([2]).factors
    sketches, weights = f.sketches(1).values, f.state.weights
    for block in f.blocks:
        for letter in block.trained_letters(method.at(1)):
            key = block.key(letter)
            moved = (found[0.3][key] - found[0.0][key])[0]
            w = 0.3 * weights[block.name]
            if len(block.shape) == 1:
                expected = torch.zeros_like(w)
            elif letter == "D":
                expected = -w
            elif letter in block.drawn_letters(method.at(1)):  # the gradient of a factor whose partner is zero
                expected = torch.zeros(block.factor_shape(letter), dtype=torch.float64)
            else:
                sketch = sketches[block.name]
                expected = -block.scale * (sketch.T @ w if letter == "A" else w @ sketch.T)
            torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_clipping_comes_before_the_theory_step():
    """So that the bound is one on the gradient, not on a gradient that the sketch has stretched."""
    work, bound = make(linear), 0.01
    local = LocalSpec(lr=1.0, sampling="full", clip=bound, precondition=True)
    f = Federation(work, shards(), local=local)
    b, s = f.sketches(1).values["weight"], f.blocks[0].scale
    g = s * b.T @ gradient(work, f.state.weights, f.shards[2], "weight")
    expected = -torch.linalg.inv(b.T @ b) @ (g * bound / g.norm()) / s**2
    torch.testing.assert_close(f.train([2]).factors["weight:A"][0], expected, rtol=0, atol=1e-12)
