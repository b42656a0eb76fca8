"""The mathematical invariants of Fed-RAC-LoRA, by number, on rectangular layers and for both sketches.

Tolerances are for float64 unless a test says otherwise. 13 and 14 are in test_convergence.py.
"""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from federation import Federation, gradient, predict, step
from scipy import stats
from torch import Tensor, nn
from workloads import EXAMPLES, FACTORIES, Workload, conv, linear, make, mlp, shards, squared

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import Block, plan_blocks, trained_shapes
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import start_of_round
from fedrac.algorithm.selection import draw_cohort
from fedrac.algorithm.server import shares
from fedrac.algorithm.sketch import Law, SketchSpec, digest, projection
from fedrac.algorithm.streams import Stream
from fedrac.training.layout import Layout
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

SIDES = ("left", "right")
LAWS: tuple[Law, ...] = ("popcount", "gaussian", "rademacher", "haar", "coordinate")
THEORY = {"precondition": True, "sampling": "full"}
both_sides = pytest.mark.parametrize("side", SIDES)
every_law = pytest.mark.parametrize("law", LAWS)
every_layer = pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def trained(side: str) -> str:
    return "A" if side == "left" else "B"


def drawn(side: str) -> str:
    return "B" if side == "left" else "A"


def apply(h: Tensor, g: Tensor, side: str) -> Tensor:
    """``H G`` or ``G H`` for a gradient of any shape."""
    matrix = g.reshape(len(g), -1)
    return (h @ matrix if side == "left" else matrix @ h).reshape(g.shape)


def update(block: Block, sketch: Tensor, factor: Tensor, side: str) -> Tensor:
    """``s B A``."""
    b, a = (sketch, factor) if side == "left" else (factor, sketch)
    return block.scale * (b @ a).reshape(block.shape)


def random_factors(blocks, method, clients, dtype, seed=0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = trained_shapes(blocks, method.at(1)).items()
    return {k: torch.randn(clients, *shape, generator=g, dtype=torch.float64).to(dtype) for k, shape in shapes}


@every_layer
@both_sides
def test_01_zero_factor_leaves_the_forward_pass_unchanged(factory, side):
    work, method = make(factory), Method(side=side)
    f = Federation(work, shards(), method)
    start, adapter = f.start(1), f.adapter()
    x = work.inputs[:12]
    expected = work.model(x)
    zero = {k: v.repeat(3, *[1] * v.ndim) for k, v in start.trained.items()}
    assert all(not v.any() for v in zero.values())
    with adapter.attached():
        adapter.use({**start.frozen, **zero}, Layout(3, len(x)))
        actual = work.model(x)
    if factory is conv:  # a GroupNorm trained in full is computed by another kernel for a cohort
        close(actual, expected)
    else:
        assert torch.equal(actual, expected)


@every_law
@both_sides
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_02_h_is_an_orthogonal_projection_onto_the_sketch(law, side, rank):
    m, n = 9, 7
    sketch = SketchSpec(law, 4).draw(side, 1, "w", m, n, rank)
    h = projection(sketch, side)
    assert h.shape == ((m, m) if side == "left" else (n, n))
    close(h, h.T)
    close(h @ h, h)
    close(h @ sketch if side == "left" else sketch @ h, sketch)
    close(h.trace(), torch.tensor(float(rank), dtype=torch.float64))


@every_law
@both_sides
def test_03_mean_projection_is_rank_over_m(law, side):
    (m, n), rank, draws = ((5, 8) if side == "left" else (8, 5)), 2, 1500
    spec = SketchSpec(law, 1)
    h = torch.stack([projection(spec.draw(side, t, "w", m, n, rank), side) for t in range(draws)])
    ranks = torch.linalg.matrix_rank(h).double()  # a Rademacher sketch this small loses rank now and then
    assert law == "rademacher" or (ranks == rank).all()
    # E[rank]/m is known only by its mean here, so its own spread belongs to the deviation.
    deviation = h - (ranks / 5)[:, None, None] * torch.eye(5, dtype=torch.float64)
    error = deviation.std(0) / draws**0.5
    assert (deviation.mean(0).abs() <= 4 * error + 1e-12).all()
    assert (error < 0.015).all()


@every_layer
@both_sides
def test_04_preconditioned_step_is_the_projected_gradient_step(factory, side):
    gamma, work = 0.3, make(factory)
    f = Federation(work, shards(), Method(side=side), LocalSpec(lr=gamma, **THEORY))
    weights, rows, sketches = dict(f.state.weights), f.shards[4], f.sketches(1).values
    found = f.train([4]).factors
    for block in f.blocks:
        g = gradient(work, weights, rows, block.name)
        if block.rank is None:
            close(found[block.key("D")][0], -gamma * g)
        else:
            moved = update(block, sketches[block.name], found[block.key(trained(side))][0], side)
            close(moved, -gamma * apply(projection(sketches[block.name], side), g, side))


@both_sides
def test_05_step_does_not_depend_on_alpha_or_on_scale_and_basis_of_the_sketch(side):
    local, rows = LocalSpec(lr=0.2, batch_size=5, epochs=2, precondition=True), list(range(5))

    def moved(alpha=3.0, change=None):
        f = Federation(make(linear), shards(), Method(side=side), local, {"*": 3}, alpha)
        (block,) = f.blocks
        sketch = f.sketches(1).values["weight"]
        if change is not None:
            sketch = sketch @ change if side == "left" else change @ sketch
        start = start_of_round(f.blocks, f.method.at(1), {"weight": sketch}, {}, torch.float64)
        factors = f.train(rows, start).factors[block.key(trained(side))]
        return torch.stack([update(block, sketch, factor, side) for factor in factors])

    expected = moved()
    assert expected.abs().max() > 0.1
    close(moved(alpha=0.7), expected)
    close(moved(change=1e3 * torch.eye(3, dtype=torch.float64)), expected)
    basis = torch.tensor([[2.0, 1.0, 0.0], [0.0, -1.0, 0.5], [1.0, 0.0, 1.0]], dtype=torch.float64)
    close(moved(change=basis), expected)


@every_layer
@both_sides
def test_06_factor_gradients_are_those_of_the_merged_weight(factory, side):
    work = make(factory)
    f = Federation(work, shards(), Method(side=side), LocalSpec(lr=1.0, sampling="full"))
    weights, rows, sketches = dict(f.state.weights), f.shards[3], f.sketches(1).values
    found = f.train([3]).factors  # one SGD step of rate 1 from zero: minus the gradient
    for block in f.blocks:
        if block.rank is None:
            continue
        g, sketch = gradient(work, weights, rows, block.name).reshape(block.m, -1), sketches[block.name]
        expected = block.scale * (sketch.T @ g if side == "left" else g @ sketch.T)
        close(-found[block.key(trained(side))][0], expected)


@every_layer
@pytest.mark.parametrize(
    "method",
    [Method(), Method(side="right"), Method(train="both"), Method(train="full")],
    ids=["left", "right", "both", "full"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_07_merged_model_predicts_as_the_adapter(factory, method, dtype):
    work, clients = make(factory, dtype), 3
    f = Federation(work, shards(), method)
    factors = random_factors(f.blocks, method, clients, dtype)
    if method.train == "both":  # what is drawn for a padding row is zero, and stays so
        for b in f.blocks:
            if b.padding is not None:
                factors[b.key("B")][:, b.padding] = 0.0
    for b in f.blocks:
        if b.padding is not None:  # the row that gets no gradient
            for key in {b.key("B"), b.key("D")} & set(factors):
                factors[key][:, b.padding] = 0.0
    start, adapter, x = f.start(1), f.adapter(), work.inputs[:12]
    with adapter.attached(), torch.no_grad():
        adapter.use({**start.frozen, **factors}, Layout(clients, len(x)))
        together = work.model(x)
    sketches, tolerance = f.sketches(1).values, 1e-5 if dtype == torch.float32 else 1e-12
    with torch.no_grad():
        plain = work.model(x)
        for c, rows in enumerate(torch.arange(12).split(4)):
            one = {key: factor[c : c + 1] for key, factor in factors.items()}
            merged = step(f.state, f.blocks, method.at(1), sketches, one, shares([1], "uniform"), 1.0).weights
            expected = predict(work, merged, rows)
            assert (together[rows] - expected).norm() <= tolerance * expected.norm()
            assert (together[rows] - plain[rows]).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("law", ["haar", "coordinate"])
def test_08_full_rank_is_full_fine_tuning(law, side):
    """Both with the library's shortcut for full rank (no sketch at all), and with a square sketch."""
    gamma, rounds = 0.05, 500
    work = make(linear)
    n_full = 5 if side == "left" else 6
    local, all_rows = LocalSpec(lr=gamma, **THEORY), [torch.arange(EXAMPLES)]
    short = Federation(work, all_rows, Method(side=side), local, {"*": n_full})
    square = Federation(work, all_rows, Method(side=side), local, {"*": 1}, law=law)
    assert short.blocks[0].rank is None
    square.blocks = (Block("weight", (5, 6), n_full, 0.6, square.blocks[0].owners),)
    w = dict(short.state.weights)
    for _ in range(rounds):
        w = {"weight": w["weight"] - gamma * gradient(work, w, all_rows[0], "weight")}
        short.round()
        square.round()
        close(short.state.weights["weight"], w["weight"])
        close(square.state.weights["weight"], w["weight"])
    assert gradient(work, w, all_rows[0], "weight").norm() < 1e-5


@both_sides
def test_09_mean_of_products_is_product_with_the_mean(side):
    work, clients, weights = make(linear), 6, shares([3, 1, 4, 1, 5, 9], "examples")
    f = Federation(work, shards(), Method(side=side))
    factors = random_factors(f.blocks, f.method, clients, torch.float64)
    sketches = f.sketches(1).values
    (block,) = f.blocks
    stacked = factors[block.key(trained(side))]
    products = torch.stack([update(block, sketches["weight"], factor, side) for factor in stacked])
    after = step(f.state, f.blocks, f.method.at(1), sketches, factors, weights, 1.0).weights["weight"]
    close(after - f.state.weights["weight"], (torch.from_numpy(weights)[:, None, None] * products).sum(0))


def test_09_averaging_two_trained_factors_misses_their_covariance():
    work, clients = make(linear), 6
    p = shares([3, 1, 4, 1, 5, 9], "examples")
    moved = {}
    for average in ("factors", "products"):
        method = Method(train="both", average=average)
        f = Federation(work, shards(), method)
        factors = random_factors(f.blocks, method, clients, torch.float64)
        after = step(f.state, f.blocks, method.at(1), f.sketches(1).values, factors, p, 1.0)
        moved[average] = after.weights["weight"] - f.state.weights["weight"]
    a, b, w = factors["weight:A"], factors["weight:B"], torch.from_numpy(p)[:, None, None]
    covariance = (w * ((b - (w * b).sum(0)) @ (a - (w * a).sum(0)))).sum(0)
    gap = moved["products"] - moved["factors"]
    close(gap, f.blocks[0].scale * covariance)
    assert gap.norm() > 0.5 * moved["products"].norm()


@both_sides
@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_10_factor_space_round_is_the_w_space_round(side, eta):
    """``W+ = W - eta H mean_m g_m`` with ``eta = eta' gamma K`` and g_m the mean gradient along m's own path."""
    gamma, epochs, batch, clients = 0.02, 2, 5, 3
    work, rows = make(linear), list(torch.arange(30).split(10))
    local = LocalSpec(lr=gamma, epochs=epochs, batch_size=batch, precondition=True)
    f = Federation(work, rows, Method(side=side), local, eta=eta, seed=7)
    w0 = f.state.weights["weight"].clone()
    h = projection(f.sketches(1).values["weight"], side)
    effective = []
    for client in range(clients):
        stream, w, sum_g, k = Stream(7, "order", 1, client), w0, torch.zeros_like(w0), 0
        for _ in range(epochs):
            order = rows[client][torch.from_numpy(stream.permutation(10))]
            for chosen in order.split(batch):
                g = gradient(work, {"weight": w}, chosen, "weight")
                w, sum_g, k = w - gamma * apply(h, g, side), sum_g + g, k + 1
        effective.append(sum_g / k)
    assert k == local.steps(10) == 4
    expected = w0 - eta * gamma * k * apply(h, torch.stack(effective).mean(0), side)
    f.round()
    close(f.state.weights["weight"], expected)


@both_sides
def test_11_identical_clients_with_one_full_step_are_the_centralised_step(side):
    gamma, work = 0.2, make(linear)
    f = Federation(work, [torch.arange(EXAMPLES)] * 4, Method(side=side), LocalSpec(lr=gamma, **THEORY))
    for number in range(1, 6):
        w = f.state.weights["weight"]
        h = projection(f.sketches(number).values["weight"], side)
        expected = w - gamma * apply(h, gradient(work, {"weight": w}, f.shards[0], "weight"), side)
        f.round()
        close(f.state.weights["weight"], expected)


@both_sides
def test_12_vanishing_local_step_is_gradient_descent(side):
    gamma, eta, epochs = 1e-7, 0.3, 2
    work, rows = make(linear), list(torch.arange(40).split(10))
    local = LocalSpec(lr=gamma, batch_size=5, epochs=epochs, precondition=True)
    f = Federation(work, rows, Method(side=side), local, eta=eta / (gamma * local.steps(10)))
    for number in range(1, 6):
        w = f.state.weights["weight"]
        h = projection(f.sketches(number).values["weight"], side)
        expected = w - eta * apply(h, gradient(work, {"weight": w}, torch.arange(40), "weight"), side)
        f.round()
        close(f.state.weights["weight"], expected, 1e-6)
        assert (expected - w).norm() > 1e-3


@both_sides
def test_15_rank_of_the_whole_update_grows_by_at_most_r_a_round(side):
    rank = 2
    inputs = torch.randn(EXAMPLES, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    work = Workload(nn.Linear(11, 9, bias=False).double(), inputs, inputs[:, :9].sin(), squared)
    f = Federation(work, shards(), Method(side=side), LocalSpec(lr=0.2, batch_size=5, precondition=True))
    w0, ranks = f.state.weights["weight"].clone(), []
    for t in range(1, 7):
        f.round()
        ranks.append(int(torch.linalg.matrix_rank(f.state.weights["weight"] - w0, rtol=1e-12)))
        assert ranks[-1] <= min(t * rank, 9)
    assert ranks == [2, 4, 6, 8, 9, 9]  # generic data fill what the sketches allow


@every_layer
@both_sides
def test_16_update_lies_in_the_span_of_the_sketch(factory, side):
    f = Federation(make(factory), shards(), Method(side=side), LocalSpec("adamw", lr=0.02, batch_size=5))
    for number in range(1, 4):
        before = dict(f.state.weights)
        f.round()
        for block in f.blocks:
            moved = f.state.weights[block.name] - before[block.name]
            if block.rank is not None:
                h = projection(f.sketches(number).values[block.name], side)
                close(apply(h, moved, side), moved)
            assert moved.norm() > 1e-3


VECTOR_WORDS = [
    16378790022928762625,
    16389164388871519525,
    3301547649847089619,
    16362310423694717977,
    9591159068532442948,
    6927596211832416854,
    5480953122507205962,
    15160039377196390117,
]


def test_17_vector_of_the_specification():
    stream = Stream(1, "sketch", 2, "layer.0.weight")
    assert stream.key.tolist() == [12681287612132524693, 7966864023518422467]
    assert stream.words(8).tolist() == VECTOR_WORDS
    expected = {
        "rademacher": [-1, -1, 1, -1, -1, 1, 1, -1],
        "popcount": [0.0, -0.5, -0.25, 0.25, -2.0, -0.75, -1.5, 0.25],
    }
    for law, entries in expected.items():
        for side, rank in (("left", 2), ("right", 4)):  # (4, 2) and (4, 2) entries, row after row
            m, n = (4, 99) if side == "left" else (99, 2)
            sketch = SketchSpec(law, 1).draw(side, 2, "layer.0.weight", m, n, rank)
            assert sketch.shape == (4, 2)
            assert sketch.flatten().tolist() == entries


SKETCH_IN_ANOTHER_PROCESS = """
import sys
import torch
from fedrac.algorithm.sketch import SketchSpec, digest

threads = int(sys.argv[1])
torch.set_num_threads(threads)
torch.manual_seed(threads)
torch.randn(100)
names = ["a", "b"] if threads == 1 else ["b", "a"]
for law in sys.argv[2:]:
    for side in ("right", "left") if threads == 1 else ("left", "right"):
        print(law, side, digest({name: SketchSpec(law, 5).raw(side, 3, name, 40, 30, 4) for name in names}))
"""


def test_17_clients_in_other_processes_draw_equal_bytes():
    def raws(law, side):
        return {name: SketchSpec(law, 5).raw(side, 3, name, 40, 30, 4) for name in "ab"}

    here = {f"{law} {side} {digest(raws(law, side))}" for law in LAWS for side in SIDES}
    for threads in ("1", "2"):
        command = [sys.executable, "-c", SKETCH_IN_ANOTHER_PROCESS, threads, *LAWS]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert set(run.stdout.splitlines()) == here


@every_law
@both_sides
def test_18_another_round_layer_or_seed_draws_another_sketch(law, side):
    def draw(seed=0, round_=1, name="w"):
        return SketchSpec(law, seed).raw(side, round_, name, 40, 30, 3)

    assert torch.equal(draw(), draw())
    for other in (draw(seed=1), draw(round_=2), draw(name="v"), draw(seed=1, round_=0)):
        assert not torch.equal(draw(), other)


def test_18_equal_seeds_give_equal_runs():
    def run(seed):
        local = LocalSpec("adamw", lr=0.02, batch_size=5)
        f = Federation(make(mlp, torch.float32), shards(), Method(), local, cohort=3, seed=seed)
        for _ in range(4):
            f.round()
        return f.state.weights

    first, again, other = run(3), run(3), run(4)
    for name in first:
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["0.weight"], other["0.weight"])


@both_sides
def test_19_replaying_seed_and_mean_factors_reproduces_the_weights(side):
    """In float32, bit for bit: a sum of r outer products in order, multiplied and added apart."""
    eta, seed = 0.7, 6
    local = LocalSpec("adamw", lr=0.02, batch_size=5)
    f = Federation(make(linear, torch.float32), shards(), Method(side=side), local, eta=eta, seed=seed)
    (block,) = f.blocks
    replayed = f.state.weights["weight"].numpy().copy()
    for number in range(1, 8):
        found = f.round().factors[block.key(trained(side))]
        mean = np.zeros(found.shape[1:])
        for factor in found.numpy().astype(np.float64):
            mean += factor * 0.2  # five equal clients
        sketch = SketchSpec("popcount", seed).draw(side, number, "weight", 5, 6, 2).numpy()
        b, a = (x.astype(np.float32) for x in ((sketch, mean) if side == "left" else (mean, sketch)))
        delta = np.zeros_like(replayed)
        for j in range(2):
            delta += b[:, j : j + 1] * a[j : j + 1]
        replayed = replayed + np.float32(eta * block.scale) * delta
        assert replayed.tobytes() == f.state.weights["weight"].numpy().tobytes()


def test_20_result_does_not_depend_on_the_order_of_arrival():
    f = Federation(make(mlp, torch.float32), shards(), local=LocalSpec(lr=0.1, batch_size=5))
    clients = [4, 1, 3, 0, 2]
    assert draw_cohort(clients, 3, 0, 1) == draw_cohort(sorted(clients), 3, 0, 1)
    found = f.train(range(5)).factors
    found = {k: v * 10.0 ** torch.arange(-4, 6, 2).view(-1, *[1] * (v.ndim - 1)) for k, v in found.items()}

    def after(arrival):
        replies = [(c, {k: v[c] for k, v in found.items()}) for c in arrival]
        ordered = [factors for _, factors in sorted(replies, key=lambda reply: reply[0])]
        stacked = {k: torch.stack([factors[k] for factors in ordered]) for k in found}
        p = shares([1] * 5, "uniform")
        return step(f.state, f.blocks, f.method.at(1), f.sketches(1).values, stacked, p, 1.0).weights

    expected = after(range(5))
    for arrival in ([4, 3, 2, 1, 0], clients):
        assert all(torch.equal(value, expected[name]) for name, value in after(arrival).items())


def test_20_clients_train_alike_in_any_order_of_the_cohort():
    f = Federation(make(mlp), shards(), local=LocalSpec("adamw", lr=0.02, batch_size=5, epochs=2))
    expected = f.train(range(5))
    for order in ([4, 3, 2, 1, 0], [2, 0], [3]):
        found = f.train(order)
        close(found.losses, expected.losses[order])
        assert found.examples.tolist() == expected.examples[order].tolist()
        for key, factors in found.factors.items():
            close(factors, expected.factors[key][order])


def test_21_optimizer_state_is_new_in_every_round():
    """The first AdamW step from zero moments is ``-lr g / (|g| + eps)``, in every round."""
    lr, eps, work = 0.05, 1e-3, make(linear)
    f = Federation(work, shards(), local=LocalSpec("adamw", lr=lr, eps=eps, sampling="full"))
    (block,) = f.blocks
    for number in range(1, 5):
        w, sketch = f.state.weights, f.sketches(number).values["weight"]
        found = f.round().factors[block.key("A")]
        for client, factor in enumerate(found):
            g = block.scale * sketch.T @ gradient(work, w, f.shards[client], "weight")
            close(factor, -lr * g / (g.abs() + eps))


@both_sides
@every_layer
def test_22_only_the_chosen_factor_is_trained(factory, side):
    f = Federation(make(factory), shards(), Method(side=side), LocalSpec(lr=0.02, batch_size=5, l2=0.1))
    model = f.workload.model
    weights, start = {k: v.clone() for k, v in model.state_dict().items()}, f.start(1)
    frozen = {k: v.clone() for k, v in start.frozen.items()}
    found = f.train(range(5), start)
    letters = {b.key("D") if b.rank is None else b.key(trained(side)) for b in f.blocks}
    assert set(found.factors) == letters
    assert set(start.frozen) == {b.key(drawn(side)) for b in f.blocks if b.rank is not None}
    assert all(p.grad is None for p in model.parameters())
    assert all(v.grad is None and not v.requires_grad for v in start.frozen.values())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, frozen[k]) for k, v in start.frozen.items())
    assert all(not v.any() for v in start.trained.values())


def test_23_cohorts_are_distinct_and_uniform():
    clients, size, rounds = [3, 5, 8, 13, 21, 34, 55], 3, 2100
    cohorts = [draw_cohort(clients, size, 11, t) for t in range(1, rounds + 1)]
    assert all(len(set(c)) == size and set(c) <= set(clients) for c in cohorts)
    counts = np.array([sum(client in c for c in cohorts) for client in clients])
    assert counts.sum() == size * rounds
    # Without replacement the counts vary less, by (M - C)/(M - 1) against independent draws.
    expected = rounds * size / len(clients)
    chi2 = ((counts - expected) ** 2 / expected).sum() * (len(clients) - 1) / (len(clients) - size)
    assert 0.001 < stats.chi2.sf(chi2, len(clients) - 1) < 0.999
    pairs = [(a in c) == (b in c) for c in cohorts[:1000] for a, b in pairwise(clients)]
    assert abs(np.mean(pairs) - 3 / 7) < 0.03  # P(both or neither) = 1/7 + 2/7


@pytest.mark.parametrize(("side", "upload"), [("left", 912), ("right", 133)])
def test_24_upload_is_the_trained_factors_only(side, upload):
    """The parameter counts of Table 3 of the paper: a 784-64-64-5 network, rank 1."""
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    method = Method(side=side)
    blocks = plan_blocks(model, AdaptSpec({"*": 1}), method)
    assert sum(torch.Size(s).numel() for s in trained_shapes(blocks, method.at(1)).values()) == upload


@pytest.mark.parametrize("rank", [1, 3])
@both_sides
@every_layer
def test_24_upload_is_r_n_left_and_r_m_right(factory, side, rank):
    f = Federation(make(factory), shards(), Method(side=side), layers={"*": rank})
    assert {k: v.shape[1:] for k, v in f.train([0, 1]).factors.items()} == trained_shapes(f.blocks, f.method.at(1))
    for block in f.blocks:
        size = sum(v.numel() for k, v in f.start(1).trained.items() if k.rpartition(":")[0] == block.name)
        m, n = block.shape[0], torch.Size(block.shape[1:]).numel()
        full = rank >= (m if side == "left" else n) or len(block.shape) == 1 or not block.rank
        assert size == (m * n if full else rank * n if side == "left" else rank * m)
