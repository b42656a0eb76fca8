"""What `CohortAdapter` does beside the mathematics, which test_invariants.py and test_oracle.py have."""

import re

import pytest
import torch
from federation import Federation, adapter
from torch import nn
from workloads import EXAMPLES, Workload, make, mlp, positions, shards, squared

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.sketch import SketchSpec
from fedrac.training.layout import Layout
from fedrac.training.local import train_cohort
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import Shard, TrainingSetup

CLIENTS = 3


def train(model, inputs, targets, layers=None, full=(), method=None, local=None, clients=range(CLIENTS)):
    """Clients of four examples each."""
    method = method or Method()
    blocks = plan_blocks(model, AdaptSpec({"*": 1} if layers is None else layers, full), method)
    sketches = draw_sketches(blocks, method, SketchSpec(), 1)
    start = start_of_round(blocks, method.at(1), sketches.values, {}, torch.float32)
    problem = TrainingSetup(model, blocks, squared, lambda i: (inputs[i], targets[i]))
    cohort = [Shard(c, torch.arange(4 * c, 4 * c + 4)) for c in clients]
    return train_cohort(problem, start, cohort, local or LocalSpec(lr=0.1, batch_size=4), 0, 1)


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


def check_one_at_a_time(caplog, reason, model, *examples, **options):
    """The run says why its clients do not share a batch, and each gets what it gets by itself."""
    together = train(model, *examples, **options)
    assert re.search(f"the clients are trained one at a time.*{reason}", caplog.text)
    for c in range(CLIENTS):
        for key, factor in train(model, *examples, **options, clients=[c]).factors.items():
            assert factor.any()
            torch.testing.assert_close(together.factors[key][c], factor[0], rtol=0, atol=1e-6)


def test_layer_that_is_never_used_does_not_move_and_is_named(caplog):
    model = nn.Sequential(nn.Linear(6, 4), nn.Identity())
    model.spare = nn.Linear(3, 3)
    model.forward = lambda x: model[0](x)
    found = train(model, data(6), data(4))
    assert found.factors["0.weight:A"].any()
    assert not found.factors["spare.weight:A"].any()
    assert "the model does not use what is trained of it, and it will not move: spare.weight" in caplog.text


@pytest.mark.parametrize("layer", [nn.Linear(6, 6), nn.LayerNorm(6)], ids=["linear", "norm"])
@pytest.mark.parametrize("length", [5, 12])  # 12 rows look like a batch
def test_batch_as_the_second_dimension(layer, length):
    model = Calls(layer, lambda layer, x: layer(x.transpose(0, 1)).mean(0))
    layers, full = ({"*": 1}, ()) if isinstance(layer, nn.Linear) else ({}, ["layer.*"])
    first = Calls(layer, lambda layer, x: layer(x).mean(1))
    found, expected = (train(m, data(length, 6), data(6), layers, full).factors for m in (model, first))
    for key, factor in expected.items():
        torch.testing.assert_close(found[key], factor)


@pytest.mark.parametrize("length", [5, 12])
def test_position_ids_without_a_batch_dimension(caplog, length):
    model = Calls(nn.Embedding(12, 6), lambda layer, x: (x + layer(torch.arange(x.shape[1]))).mean(1))
    check_one_at_a_time(caplog, "'layer' .Embedding. reads trained weights", model, data(length, 6), data(6))


def test_batch_statistics(caplog):
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False))
    reason = "mixes the rows of its batch.*faster without batch statistics"
    check_one_at_a_time(caplog, reason, model, data(6), data(4))


def test_batch_as_large_as_the_probes_or_not_is_seen_alike():
    """What looks at the number of rows is found out, too."""

    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1 if len(x) % 2 else 2)

    model = nn.Sequential(Odd(6, 4))
    together = train(model, data(6), data(4), local=LocalSpec(lr=0.1, batch_size=3))
    for c in range(CLIENTS):
        alone = train(model, data(6), data(4), local=LocalSpec(lr=0.1, batch_size=3), clients=[c])
        torch.testing.assert_close(together.factors["0.weight:A"][c], alone.factors["0.weight:A"][0])


def test_rows_of_a_client_that_are_spread_over_a_longer_first_dimension():
    """(rows, time, ...) flattened into (rows * time, ...) is still in order of clients."""
    flat = Calls(nn.Linear(6, 4), lambda layer, x: layer(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1))
    deep = Calls(flat.layer, lambda layer, x: layer(x).mean(1))
    a, b = (train(model, data(5, 6), data(4)).factors["layer.weight:A"] for model in (flat, deep))
    torch.testing.assert_close(a, b)


def test_parameter_of_a_module_around_another_trained_layer(caplog):
    """The whole model reads it, so the whole model is called for each client."""
    check_one_at_a_time(caplog, "'the model' .Composite.", Composite(), data(6), data(4), full=["shift"])
    caplog.clear()
    inside = nn.Sequential(Composite(), nn.Linear(4, 4))
    found = train(inside, data(6), data(4), full=["0.shift"])
    assert not caplog.text
    assert found.factors["0.shift:D"].shape == (CLIENTS, 6)
    assert all(factor.any() for factor in found.factors.values())


def test_inputs_by_keyword():
    named, plain = (Calls(Gain(), call) for call in (lambda m, x: m(x, power=2.0), lambda m, x: m(x, 2.0)))
    found, expected = (train(m, data(6), data(6), {}, ["layer.gain"]).factors for m in (named, plain))
    torch.testing.assert_close(found, expected)
    layer = nn.Linear(6, 4)
    found, expected = (
        train(Calls(layer, call), data(6), data(4)).factors for call in (lambda m, x: m(input=x), lambda m, x: m(x))
    )
    torch.testing.assert_close(found, expected)


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
    start = start_of_round(blocks, Method().at(1), sketches.values, {}, torch.float32)
    problem = TrainingSetup(model, blocks, squared, lambda i: ({"left": left[i], "right": right[i]}, y[i]))
    found = train_cohort(problem, start, [Shard(0, torch.arange(12))], LocalSpec(lr=0.1), 0, 1)
    assert all(f.abs().max() > 0 for f in found.factors.values())


def test_update_of_a_layer_that_all_rows_share_reaches_all_of_them():
    """With zero rows of its own data, the shared embedding alone makes the output; clients must differ."""
    work = make(positions)
    f = Federation(work, shards(), layers={"positions": 2})
    start, engine = f.start(1), f.adapter()
    factors = {k: torch.randn(3, *v.shape).double() for k, v in start.trained.items()}
    zero = torch.zeros(6, 4, 6, dtype=torch.float64)
    with engine.attached(), torch.no_grad():
        engine.use({**start.frozen, **factors}, Layout(3, 6))
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
    """Also where the layer itself is trained: its update goes through all that it does."""
    first, second = nn.Linear(6, 6), make_layer()
    model = nn.Sequential(first, second).double()
    blocks = plan_blocks(model, AdaptSpec({"*": 2}, full=["*.bias"]), Method(train="both"))
    shapes = {b.key(letter): b.factor_shape(letter) for b in blocks for letter in ("AB" if b.rank else "D")}
    generator = torch.Generator().manual_seed(3)
    factors = {
        k: torch.randn(1, *s, generator=generator, dtype=torch.float64).requires_grad_() for k, s in shapes.items()
    }
    x = data(6).double()
    engine = adapter(model, blocks, x)
    engine.use(factors, Layout(1, len(x)))
    with engine.attached():
        out = model(x)
    scale = blocks[0].scale

    def layer(module, name, x, outer):
        a, b, d = (factors[f"{name}.{key}"][0] for key in ("weight:A", "weight:B", "bias:D"))
        return outer(x @ (module.weight + scale * b @ a).T + module.bias + d)

    expected = layer(second, "1", layer(first, "0", x, lambda y: y), outer)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    found, wanted = (torch.autograd.grad(y.square().sum(), list(factors.values())) for y in (out, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_second_derivatives_are_refused():
    model = nn.Sequential(nn.Linear(6, 3)).double()
    blocks = plan_blocks(model, AdaptSpec({"*": 1}), Method())
    factor = torch.ones(1, 1, 6, dtype=torch.float64).requires_grad_()
    engine = adapter(model, blocks, data(6).double())
    engine.use({"0.weight:A": factor, "0.weight:B": torch.ones(3, 1, dtype=torch.float64)}, Layout(1, 12))
    with engine.attached():
        out = model(data(6).double()).square().sum()
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(out, factor, create_graph=True)
