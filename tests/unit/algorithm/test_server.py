"""The server beside what the oracle and the invariants hold: shares, exact sums, carried factors, tied weights."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from federation import Federation, step
from workloads import Tied, entropy, linear, make, mlp, shards, tied

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.means import average
from fedrac.algorithm.merge import effective_weights, plus_product, product
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.selection import draw_cohort
from fedrac.algorithm.server import ServerSpec, initial_state, shares
from fedrac.algorithm.sketch import SketchSpec
from fedrac.training.optimizer import LocalSpec


def test_shares():
    assert shares([5, 1, 4], "uniform").tolist() == [1 / 3] * 3
    assert shares([5, 1, 4], "examples").tolist() == [0.5, 0.1, 0.4]


def test_average_is_a_float64_sum_in_the_given_order():
    """Bit for bit what a plain loop over Python's floats gives, for factors of very different size."""
    g = torch.Generator().manual_seed(0)
    stacked = torch.randn(40, 3, 2, generator=g) * 10.0 ** torch.randint(-8, 8, (40, 1, 1), generator=g)
    weights = shares(torch.randint(1, 99, (40,), generator=g).tolist(), "examples")
    found = average(stacked, weights)
    assert found.dtype == torch.float64
    for i in range(3):
        for j in range(2):
            total = 0.0
            for w, factor in zip(weights.tolist(), stacked[:, i, j].double().tolist(), strict=True):
                total += w * factor
            assert found[i, j] == total


@pytest.mark.parametrize("shape", [(), (1, 1), (2,), (5001,)])
def test_average_is_in_the_given_order_whatever_the_shape(shape):
    """A sum by halves, as of 200 numbers in a row, has other bits."""
    g = torch.Generator().manual_seed(0)
    sizes = torch.randint(-8, 8, (200, *[1] * len(shape)), generator=g)
    stacked = torch.randn(200, *shape, generator=g) * 10.0**sizes
    weights = shares(torch.randint(1, 99, (200,), generator=g).tolist(), "examples")
    total = torch.zeros(shape, dtype=torch.float64)
    for weight, factor in zip(weights.tolist(), stacked.double(), strict=True):
        total += weight * factor
    assert torch.equal(average(stacked, weights), total)


def test_average_of_negative_zeros_is_zero():
    for shape in ((), (3,)):
        assert not average(torch.full((4, *shape), -0.0), np.full(4, 0.25)).signbit().any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_product_rounds_after_every_multiplication_and_addition(dtype):
    g = torch.Generator().manual_seed(1)
    b, a = (torch.randn(s, generator=g).to(torch.from_numpy(np.zeros(1, dtype)).dtype) for s in ((4, 7), (7, 5)))
    found = product(b, a).numpy()
    assert found.dtype == dtype
    for i in range(4):
        for k in range(5):
            total = dtype(0)
            for j in range(7):  # exact in rational numbers, then rounded once for each operation
                term = dtype(float(Fraction(float(b[i, j])) * Fraction(float(a[j, k]))))
                total = dtype(float(Fraction(float(total)) + Fraction(float(term))))
            assert found[i, k] == total


def test_cohort_is_ascending_and_changes_with_round_and_seed():
    cohorts = [draw_cohort(range(100), 10, seed, t) for seed in range(3) for t in range(1, 4)]
    assert all(c == sorted(set(c)) and len(c) == 10 for c in cohorts)
    assert len(set(map(tuple, cohorts))) == 9
    assert draw_cohort([7, 3, 5], 3, 0, 1) == [3, 5, 7]


def test_cohort_larger_than_the_population():
    with pytest.raises(ValueError, match=r"cohort.size=4 is larger than the population of 3 clients: lower it"):
        draw_cohort([1, 2, 3], 4, 0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cohort_size": 0}, "cohort.size=0 must be at least 1"),
        ({"min_fraction": 0.0}, r"cohort.min_fraction=0.0 must lie in \(0, 1\]"),
        ({"min_fraction": 1.1}, r"cohort.min_fraction=1.1 must lie in \(0, 1\]"),
        ({"weighting": "sizes"}, "server.weighting='sizes' is unknown: choose uniform or examples"),
        ({"eta": 0.0}, "server.eta=0.0 must be positive"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ServerSpec(**settings)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("train", ["factor", "both"])
def test_carried_factors_start_at_the_first_draw_and_go_on(train, side):
    method = Method(train=train, side=side, fresh=False, merge=False)
    f = Federation(make(mlp), shards(), method, LocalSpec(lr=0.05, batch_size=5), cohort=3)
    weights = {k: v.clone() for k, v in f.state.weights.items()}
    adapted = [b for b in f.blocks if b.rank is not None]
    assert set(f.state.factors) == {b.key(x) for b in adapted for x in b.trained_letters(method.at(1))}
    assert all(torch.equal(v, weights[k]) for k, v in f.weights().items())
    for _ in range(2):
        found = f.round()
        after = f.start(f.state.round + 1)
        for block in adapted:  # the mean is what the next round starts from, and W stays as it was
            for letter in block.trained_letters(method.at(1)):
                mean = found.factors[block.key(letter)].mean(0)
                torch.testing.assert_close(after.trained[block.key(letter)], mean, rtol=0, atol=1e-12)
            assert torch.equal(f.state.weights[block.name], weights[block.name])
            assert (f.weights()[block.name] - weights[block.name]).abs().max() > 1e-3


def test_state_of_a_round_is_not_changed_by_the_next():
    f = Federation(make(mlp), shards(), local=LocalSpec(lr=0.05, batch_size=5))
    state = f.state
    weights = {k: v.clone() for k, v in state.weights.items()}
    f.round()
    assert (state.round, f.state.round) == (0, 1)
    assert all(torch.equal(v, weights[k]) for k, v in state.weights.items())
    assert not torch.equal(f.state.weights["0.weight"], weights["0.weight"])


def test_weights_and_steps_are_in_the_master_dtype():
    f = Federation(make(mlp, torch.float32), shards(), local=LocalSpec(lr=0.05, batch_size=5), alpha=1.0)
    f.round()
    assert {v.dtype for v in f.state.weights.values()} == {torch.float32}
    carrying = Method(train="both", fresh=False, merge=False, average="products")
    f = Federation(make(mlp, torch.float32), shards(), carrying, LocalSpec(lr=0.05, batch_size=5))
    f.round()
    assert {v.dtype for v in [*f.state.weights.values(), *f.state.factors.values()]} == {torch.float32}


@pytest.mark.parametrize(
    "method",
    [Method(), Method(train="full"), Method(fresh=False, merge=False)],
    ids=["merged", "full", "carried"],
)
def test_tied_weights_move_under_all_their_names(method):
    """A state dict has the shared matrix twice; loading it must give the new one, whichever name comes last."""
    f = Federation(make(tied), shards(), method, LocalSpec(lr=0.05, batch_size=5))
    before = f.state.weights["embed.weight"].clone()
    f.round()
    weights = f.weights()
    assert torch.equal(weights["embed.weight"], weights["head.weight"])
    loaded = Tied().double()
    loaded.load_state_dict(weights)
    assert torch.equal(loaded.embed.weight, weights["embed.weight"])
    assert not torch.equal(loaded.head.weight, before)
    losses = [entropy(m(f.workload.inputs), f.workload.targets).mean() for m in (loaded, make(tied).model)]
    assert losses[0] < losses[1]


def test_equal_clients_have_no_covariance():
    """Factors or products, the average of equal clients is each of them (section 4.1)."""
    found = {}
    for average_ in ("factors", "products"):
        method = Method(train="both", average=average_)
        f = Federation(make(linear), [torch.arange(20)] * 3, method, LocalSpec(lr=0.02, sampling="full"))
        for _ in range(3):
            f.round()
        found[average_] = f.state.weights["weight"]
    torch.testing.assert_close(found["factors"], found["products"], rtol=0, atol=1e-12)


def test_effective_weights_of_a_chain_are_its_weights():
    model = make(mlp).model
    blocks = plan_blocks(model, AdaptSpec({"*": 2}), Method())
    sketches = draw_sketches(blocks, Method(), SketchSpec(), 1)
    state = initial_state(dict(model.state_dict()), blocks, Method(), SketchSpec())
    assert not state.factors
    found = effective_weights(state, blocks, sketches.values)
    assert all(torch.equal(v, state.weights[k]) for k, v in found.items())


def test_zero_factors_change_nothing():
    for method in (Method(), Method(side="right"), Method(train="both", average="products"), Method(train="full")):
        model = make(mlp, torch.float32).model
        blocks = plan_blocks(model, AdaptSpec({"*": 2}, full=["*.bias"]), method)
        sketches = draw_sketches(blocks, method, SketchSpec(), 1).values
        start = start_of_round(blocks, method.at(1), sketches, {}, torch.float32)
        state = initial_state(dict(model.state_dict()), blocks, method, SketchSpec())
        stacked = {k: v.repeat(3, *[1] * v.ndim) for k, v in start.trained.items()}
        after = step(state, blocks, method.at(1), sketches, stacked, shares([1] * 3, "uniform"), 1.0)
        assert all(torch.equal(v, state.weights[k]) for k, v in after.weights.items())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 97, 100])
@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.29, 0.3, 0.5, 0.7, 0.999, 1.0])
def test_least_clients_is_the_least(size, fraction):
    least = ServerSpec(size, min_fraction=fraction).least_clients
    assert least / size >= fraction and (least == 1 or (least - 1) / size < fraction)


def test_a_cohort_as_large_as_may_be_is_counted_at_once():
    assert ServerSpec(2**31, min_fraction=0.5).least_clients == 2**30
    with pytest.raises(ValueError, match=r"cohort.size=10000000000 must be at least 1, and at most 2147483648"):
        ServerSpec(10**10)


@pytest.mark.parametrize("shape", [(7, 5), (1500, 300), (3, 400, 300), (0, 4)])
def test_a_merge_some_rows_at_a_time_has_the_bits_of_outer_products_in_order(shape):
    g = torch.Generator().manual_seed(0)
    w, b = torch.randn(shape, generator=g), torch.randn(*shape[:-1], 3, generator=g)
    a = torch.randn(*shape[:-2], 3, shape[-1], generator=g)
    total = np.zeros(shape, np.float32)
    for j in range(3):
        total += b.numpy()[..., :, j, None] * a.numpy()[..., None, j, :]
    assert torch.equal(product(b, a), torch.from_numpy(total))
    assert torch.equal(plus_product(w, b, a, 0.3), w + 0.3 * torch.from_numpy(total))
