"""What `CohortAdapter` does beside the mathematics, which test_invariants.py and test_oracle.py have."""

import pytest
import torch
from federation import Federation
from torch import nn
from workloads import EXAMPLES, Workload, make, mlp, positions, shards, squared

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.sketch import SketchSpec
from fedrac.training.adapter import CohortAdapter
from fedrac.training.local import train_cohort
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import Shard, TrainingSetup

CLIENTS = 3


def train(model, inputs, targets, layers=None, full=(), method=None, local=None, round_=1):
    """Three clients of four examples each."""
    method = method or Method()
    blocks = plan_blocks(model, AdaptSpec({"*": 1} if layers is None else layers, full), method)
    sketches = draw_sketches(blocks, method, SketchSpec(side=method.side), 1)
    start = start_of_round(blocks, method, sketches.values, {}, torch.float32)
    problem = TrainingSetup(model, blocks, squared, lambda i: (inputs[i], targets[i]))
    cohort = [Shard(c, torch.arange(4 * c, 4 * c + 4)) for c in range(CLIENTS)]
    return train_cohort(problem, start, cohort, local or LocalSpec(lr=0.1, batch_size=4), 0, round_)


def data(*shape, seed=0):
    return torch.randn(12, *shape, generator=torch.Generator().manual_seed(seed))


class Composite(nn.Module):
    """A parameter of its own beside a layer."""

    def __init__(self):
        super().__init__()
        self.shift, self.layer = nn.Parameter(torch.ones(6)), nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(x + self.shift)


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x, power=1.0):
        return (x * self.gain) ** power


class Mix(nn.Module):
    """Two inputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 24).reshape(4, 6))

    def forward(self, x, y):
        return (x * y) @ self.weight.T


class Calls(nn.Module):
    """Calls its layer as it is told."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x):
        return self.call(self.layer, x)


def test_hooks_are_gone_after_training_and_after_an_error():
    model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))
    train(model, data(6), data(4), full=["1.*"])
    with pytest.raises(RuntimeError):
        train(model, data(5), data(4), full=["1.*"])
    assert all(not m._forward_hooks for m in model.modules())


def test_layer_that_is_never_called():
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    model = Calls(attention, lambda layer, x: layer(x, x, x)[0].mean(1))
    with pytest.raises(ValueError, match=r"layer 'layer.out_proj' is adapted, but the model never calls it"):
        train(model, data(5, 6), data(6))


@pytest.mark.parametrize("layer", [nn.Linear(6, 6), nn.LayerNorm(6)], ids=["linear", "norm"])
def test_batch_as_the_second_dimension(layer):
    model = Calls(layer, lambda layer, x: layer(x.transpose(0, 1)).mean(0))
    layers, full = ({"*": 1}, ()) if isinstance(layer, nn.Linear) else ({}, ["layer.*"])
    with pytest.raises(ValueError, match="layer 'layer' saw 5 rows for a batch of 12: the batch must be the first"):
        train(model, data(5, 6), data(6), layers, full)
    with pytest.raises(ValueError, match="the model mixes the rows of its batch"):  # 12 rows look like a batch
        train(model, data(12, 6), data(6), layers, full)


def test_position_ids_without_a_batch_dimension():
    model = Calls(nn.Embedding(12, 6), lambda layer, x: (x + layer(torch.arange(x.shape[1]))).mean(1))
    with pytest.raises(ValueError, match="layer 'layer' saw 5 rows for a batch of 12"):
        train(model, data(5, 6), data(6))
    with pytest.raises(ValueError, match=r"mixes the rows of its batch.*a first dimension of 1"):
        train(model, data(12, 6), data(6))


def test_batch_statistics():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ValueError, match=r"mixes the rows of its batch.*use no batch statistics"):
        train(model, data(6), data(4))


def test_rows_of_a_client_that_are_spread_over_a_longer_first_dimension():
    """(rows, time, ...) flattened into (rows * time, ...) is still in order of clients."""
    flat = Calls(nn.Linear(6, 4), lambda layer, x: layer(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1))
    deep = Calls(flat.layer, lambda layer, x: layer(x).mean(1))
    a, b = (train(model, data(5, 6), data(4)).factors["layer.weight:A"] for model in (flat, deep))
    torch.testing.assert_close(a, b)


def test_parameter_of_a_module_around_another_trained_layer():
    message = "parameter 'shift' is trained in full, but its module '' contains another trained layer, 'layer'"
    with pytest.raises(ValueError, match=message):
        train(Composite(), data(6), data(4), full=["shift"])
    alone = train(Composite(), data(6), data(4), {"*": "frozen"}, ["shift"])
    assert alone.factors["shift:D"].shape == (CLIENTS, 6)


def test_inputs_by_keyword():
    model = Calls(Gain(), lambda layer, x: layer(x, power=2.0))
    with pytest.raises(ValueError, match=r"module 'layer' has parameters .* called with the keyword 'power'"):
        train(model, data(6), data(6), {}, ["layer.gain"])
    model = Calls(nn.Linear(6, 4), lambda layer, x: layer(input=x))
    with pytest.raises(ValueError, match="layer 'layer' is called with keyword arguments only"):
        train(model, data(6), data(4))


def test_module_with_several_inputs_and_several_calls():
    """A module of two inputs trained in full, and one Linear layer that is called twice."""
    model = Calls(Mix(), lambda layer, x: layer(x, x.sin()))
    result = train(model, data(6), data(4), {}, ["layer.weight"])
    x, y, w = data(6)[4:8], data(4)[4:8], model.layer.weight.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(squared((x * x.sin()) @ w.T, y).mean(), [w])
    torch.testing.assert_close(result.factors["layer.weight:D"][1], -0.1 * g)

    twice = Calls(nn.Linear(6, 6, bias=False), lambda layer, x: layer(torch.tanh(layer(x))))
    method = Method(train="full")
    result = train(twice, data(6), data(6, seed=1), method=method)
    w = twice.layer.weight.detach().clone().requires_grad_()
    out = torch.tanh(data(6)[:4] @ w.T) @ w.T
    (g,) = torch.autograd.grad(squared(out, data(6, seed=1)[:4]).mean(), [w])
    torch.testing.assert_close(result.factors["layer.weight:D"][0], -0.1 * g)


def test_models_that_take_several_inputs_by_name():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(5, 4)

        def forward(self, left, right):
            return self.a(left) + self.b(right)

    model, left, right, y = Pair(), data(6), data(5), data(4)
    blocks = plan_blocks(model, AdaptSpec(), Method())
    sketches = draw_sketches(blocks, Method(), SketchSpec(), 1)
    start = start_of_round(blocks, Method(), sketches.values, {}, torch.float32)
    problem = TrainingSetup(model, blocks, squared, lambda i: ({"left": left[i], "right": right[i]}, y[i]))
    found = train_cohort(problem, start, [Shard(0, torch.arange(12))], LocalSpec(lr=0.1), 0, 1)
    assert all(f.abs().max() > 0 for f in found.factors.values())


def test_update_of_a_layer_that_all_rows_share_reaches_all_of_them():
    """With zero rows of its own data, the shared embedding alone makes the output; clients must differ."""
    work = make(positions)
    f = Federation(work, shards(), layers={"positions": 2})
    start, adapter = f.start(1), f.adapter()
    factors = {k: torch.randn(3, *v.shape).double() for k, v in start.trained.items()}
    zero = torch.zeros(6, 4, 6, dtype=torch.float64)
    with adapter.attached(), torch.no_grad():
        adapter.use({**start.frozen, **factors}, 3, 6)
        out = work.model(zero)
    for c in range(3):
        torch.testing.assert_close(out[2 * c], out[2 * c + 1], rtol=0, atol=1e-12)
        assert (out[2 * c] - out[(2 * c + 2) % 6]).abs().max() > 1e-3


def test_padding_row_never_moves():
    for side in ("left", "right"):
        for train_ in ("factor", "both", "full"):
            model = nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Flatten(), nn.Linear(12, 3))
            with torch.no_grad():
                model[0].weight[2] = 1.5  # as a pretrained embedding may have it
            ids = torch.randint(7, (EXAMPLES, 3), generator=torch.Generator().manual_seed(0))
            y = torch.randn(EXAMPLES, 3, generator=torch.Generator().manual_seed(0))
            local = LocalSpec("adamw", lr=0.05, batch_size=5)
            method = Method(side=side, train=train_)
            f = Federation(Workload(model, ids, y, squared), shards(), method, local)
            before = f.state.weights["0.weight"].clone()
            for _ in range(2):
                f.round()
            moved = (f.state.weights["0.weight"] - before).abs().amax(1)
            assert moved[2] == 0
            assert (moved[[0, 1, 3, 4, 5, 6]] > 1e-3).all()


def test_base_computes_in_its_own_dtype():
    model = make(mlp, torch.bfloat16).model
    found = train(model, data(6).bfloat16(), data(3).bfloat16(), full=["*.bias"])
    assert all(v.dtype == torch.float32 for v in found.factors.values())
    assert all(torch.isfinite(v).all() and v.any() for v in found.factors.values())


class Sine(nn.Linear):
    """A subclass that does more than its base."""

    def forward(self, x):
        return super().forward(x).sin()


def hooked():
    layer = nn.Linear(6, 6)
    layer.register_forward_hook(lambda module, args, out: out.sin())
    return layer


def replaced():
    layer = nn.Linear(6, 6)
    layer.forward = lambda x: nn.Linear.forward(layer, x).sin()
    return layer


@pytest.mark.parametrize(
    ("make_layer", "outer"),
    [
        (lambda: nn.Linear(6, 6), lambda y: y),
        (lambda: Sine(6, 6), torch.sin),
        (hooked, torch.sin),
        (replaced, torch.sin),
    ],
    ids=["plain", "subclass", "hook", "replaced"],
)
def test_gradient_goes_back_through_what_a_layer_really_does(make_layer, outer):
    first, second = nn.Linear(6, 6), make_layer()
    model = nn.Sequential(first, second).requires_grad_(False).double()
    blocks = plan_blocks(model, AdaptSpec({"*": 2}, full=["*.bias"]), Method(train="both"))
    shapes = {b.key(letter): b.factor_shape(letter) for b in blocks for letter in ("AB" if b.rank else "D")}
    generator = torch.Generator().manual_seed(3)
    factors = {
        k: torch.randn(1, *s, generator=generator, dtype=torch.float64).requires_grad_() for k, s in shapes.items()
    }
    x = data(6).double()
    adapter = CohortAdapter(model, blocks)
    adapter.use(factors, 1, len(x))
    with adapter.attached():
        out = model(x)
    scale = blocks[0].scale

    def layer(module, name, x, outer):
        a, b, d = (factors[f"{name}.{key}"][0] for key in ("weight:A", "weight:B", "bias:D"))
        return outer(x @ module.weight.T + module.bias) + scale * (x @ a.T) @ b.T + d

    expected = layer(second, "1", layer(first, "0", x, lambda y: y), outer)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    found, wanted = (torch.autograd.grad(y.square().sum(), list(factors.values())) for y in (out, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_second_derivatives_are_refused():
    model = nn.Sequential(nn.Linear(6, 3)).double()
    blocks = plan_blocks(model, AdaptSpec({"*": 1}), Method())
    factor = torch.ones(1, 1, 6, dtype=torch.float64).requires_grad_()
    adapter = CohortAdapter(model, blocks)
    adapter.use({"0.weight:A": factor, "0.weight:B": torch.ones(3, 1, dtype=torch.float64)}, 1, 12)
    with adapter.attached():
        out = model(data(6).double()).square().sum()
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(out, factor, create_graph=True)
