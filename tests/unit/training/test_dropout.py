import numpy as np
import pytest
import torch
import torch.nn.functional as F
from federation import Federation
from torch import nn
from workloads import EXAMPLES, Workload, shards, squared

from fedrac.algorithm.method import Method
from fedrac.training.dropout import ClientDropout, no_global_draws
from fedrac.training.layout import Layout
from fedrac.training.local import train_cohort
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import KnownWays, Shard, TrainingSetup

CPU = torch.device("cpu")


def entered(clients=(0, 1), rows=None, seed=0, round_=1, step=0):
    mode = ClientDropout(seed, round_, clients, CPU)
    mode.start(step, Layout(len(clients), rows or len(clients)))
    return mode


def values(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """A little transformer: dropout on units, channels, and attention weights."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 3)
        self.drop, self.channels = nn.Dropout(0.3), nn.Dropout1d(0.4)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in self.qkv(self.drop(x)).chunk(3, -1))
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25 if self.training else 0.0, is_causal=True)
        x = self.channels(self.out(x.transpose(1, 2).flatten(2)))
        return self.head(self.drop(torch.relu(x))).mean(1)


def federation(local, seed=0):
    generator = torch.Generator().manual_seed(2)
    inputs, targets = (torch.randn(EXAMPLES, *s, generator=generator).double() for s in ((4, 6), (3,)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Attention().double()
    return Federation(Workload(model, inputs, targets, squared), shards(), Method(), local, seed=seed)


@pytest.mark.parametrize("max_tokens", [1, 12, 10_000])
@pytest.mark.parametrize("sampling", ["rr", "full"])
def test_a_clients_masks_are_the_same_alone_in_a_cohort_and_in_a_chunk(sampling, max_tokens):
    local = LocalSpec(lr=0.1, batch_size=5, epochs=2, sampling=sampling, max_tokens=max_tokens)
    f = federation(local)
    together = f.train([4, 1, 3, 0, 2])
    for place, client in enumerate([4, 1, 3, 0, 2]):
        alone = f.train([client])
        for key, factor in alone.factors.items():
            torch.testing.assert_close(together.factors[key][place], factor[0], rtol=0, atol=1e-12)


def test_masks_depend_on_seed_and_round_and_are_not_torchs():
    local = LocalSpec(lr=0.1, sampling="full")
    torch.manual_seed(0)
    first = federation(local).train([0]).losses
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(federation(local).train([0]).losses, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(federation(local, seed=1).train([0]).losses, first)
    model, later = federation(local), federation(local)
    later.state = type(later.state)(1, later.state.weights, {})
    start = model.start(1)
    assert not torch.equal(model.train([0], start).losses, later.train([0], start).losses)


def test_no_dropout_in_a_model_in_evaluation_mode():
    x = values(4, 5)
    with entered():
        assert torch.equal(nn.Dropout(0.5).eval()(x), x)
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
        assert torch.equal(nn.Dropout(0.0)(x), x)
        assert torch.equal(F.dropout2d(x[..., None, None], 0.5, training=False)[..., 0, 0], x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    x = torch.ones(8, 40_000, dtype=torch.float64)
    with entered(rows=8):
        y = F.dropout(x, p)
    assert set(y.unique().tolist()) == {0.0, 1 / (1 - p)}
    kept = (y > 0).double().mean(1)
    assert ((kept - (1 - p)).abs() <= 4 * (p * (1 - p) / x.shape[1]) ** 0.5).all()


def test_dropping_everything():
    with entered():
        assert not F.dropout(values(4, 5), 1.0).any()


@pytest.mark.parametrize("clients", [(0, 1), (5, 6)])
def test_masks_are_independent_over_clients_rows_calls_and_steps(clients):
    x, masks = torch.ones(4, 20_000), []
    for step in (0, 1):
        with entered(clients, 4, step=step):
            masks += [F.dropout(x, 0.5) > 0, F.dropout(x, 0.5) > 0]
    rows = torch.cat(masks).double() - 0.5
    correlation = (rows @ rows.T) / (0.25 * rows.shape[1])
    off = correlation - torch.eye(len(rows), dtype=torch.float64)
    assert off.abs().max() < 4.5 / rows.shape[1] ** 0.5
    neighbours = (rows[:, 1:] * rows[:, :-1]).mean(1) / 0.25
    assert neighbours.abs().max() < 4.5 / rows.shape[1] ** 0.5


@pytest.mark.parametrize(
    ("drop", "shape"), [(F.dropout1d, (4, 50, 6)), (F.dropout2d, (4, 50, 3, 2)), (F.dropout3d, (4, 50, 3, 2, 2))]
)
def test_channel_dropout_drops_whole_channels(drop, shape):
    x = torch.ones(shape)
    with entered(rows=4):
        y = drop(x, 0.5).flatten(2)
    assert (y == y[..., :1]).all()
    assert 60 < (y[..., 0] > 0).sum() < 140


def test_other_names_of_dropout():
    x = values(4, 50)
    results = []
    for call in (lambda: F.dropout(x, 0.5), lambda: torch.dropout(x, 0.5, True), lambda: nn.Dropout(0.5)(x)):
        with entered(rows=4):
            results.append(call())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], x)


MASKS = {
    "plain": {},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": torch.tensor([[1, 1, 0, 1, 0]] * 4, dtype=torch.bool)},
    "additive": {"attn_mask": torch.linspace(-3, 3, 20).reshape(4, 5)},
    "scaled": {"scale": 0.3},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("heads", [4, 2], ids=["heads", "grouped"])
def test_attention(mask, heads):
    """Equal to torch's without dropout; with dropout, the mean over many masks of a linear map of the values."""
    q, k, v = values(4, 4, 4, 6), values(4, heads, 5, 6).cos(), values(4, heads, 5, 3).sin()
    options = {**MASKS[mask], "enable_gqa": heads != 4}
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    with entered(rows=4) as mode:
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, **options), expected)
        assert not mode.used
        # A rate too small to drop anything takes the written-out path.
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, dropout_p=1e-12, **options), expected)
        assert mode.used
        draws = torch.stack([F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, **options) for _ in range(300)])
    error = draws.std(0) / 300**0.5
    assert ((draws.mean(0) - expected).abs() <= 4.5 * error + 1e-5).all()
    assert error.max() > 1e-3


def test_dropout_of_something_without_the_batch_first():
    with (
        pytest.raises(
            ValueError,
            match=r"draws at random has the shape \(1, 6\) for a batch of 4: the batch must be its first dim",
        ),
        entered(rows=4),
    ):
        F.dropout(values(1, 6), 0.5)


def test_no_global_draws():
    with no_global_draws(CPU):
        values(3)
    with pytest.raises(ValueError, match="draws random numbers from a global generator"), no_global_draws(CPU):
        torch.rand(1)


class Draws(nn.Module):
    def __init__(self, layer, call):
        super().__init__()
        self.linear, self.layer, self.call = nn.Linear(6, 6), layer, call

    def forward(self, x):
        return self.call(self.layer, self.linear(x)[:, None]).mean(1)


def trained(model, clients, ways=None):
    work = Workload(model, values(EXAMPLES, 6), values(EXAMPLES, 6), squared)
    f = Federation(work, shards(), layers={"linear": 2}, local=LocalSpec(lr=0.01, batch_size=4))
    problem = TrainingSetup(model, f.blocks, squared, lambda i: (work.inputs[i], work.targets[i]), ways or KnownWays())
    return train_cohort(problem, f.start(1), [Shard(c, f.shards[c]) for c in clients], f.local, 0, 1).factors


def check_own(model, ways=None):
    """A client's draws are its own, wherever and whenever it is trained."""
    together = trained(model, [3, 1, 4], ways)["linear.weight:A"]
    torch.rand(7)
    for place, client in enumerate([3, 1, 4]):
        torch.testing.assert_close(together[place], trained(model, [client], ways)["linear.weight:A"][0])
    return together


class Drops(nn.Module):
    """Drops the whole of a row, as stochastic depth does: in the ways of transformers, torchvision and timm."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x * self.draw(x)


DEPTHS = {
    "transformers": lambda x: (0.6 + torch.rand((len(x), 1, 1), dtype=x.dtype, device=x.device)).floor() / 0.6,
    "timm": lambda x: x.new_empty((len(x), 1, 1)).bernoulli_(0.6) / 0.6,
    "torchvision": lambda x: torch.empty([len(x), 1, 1], dtype=x.dtype).bernoulli_(0.6).div_(0.6),
    "like": lambda x: torch.rand_like(x[:, :, :1]).lt(0.6) / 0.6,
    "of probabilities": lambda x: torch.bernoulli(torch.full_like(x[:, :, :1], 0.6)) / 0.6,
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_stochastic_depth(depth, caplog):
    model = Draws(Drops(DEPTHS[depth]), lambda m, x: m(x))
    some = check_own(model)
    assert not caplog.text
    other = check_own(Draws(Drops(lambda x: 1.0), lambda m, x: m(x)))
    assert not torch.equal(some, other)
    with entered((0, 1), 20_000):
        kept = DEPTHS[depth](torch.ones(20_000, 1, 1)).flatten()
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert abs(float((kept > 0).double().mean()) - 0.6) < 4.5 * (0.24 / 20_000) ** 0.5


def test_uniform_numbers():
    with entered((0, 1), 40_000):
        numbers = torch.rand(40_000, dtype=torch.float64).sort().values
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    grid = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    assert (numbers - grid).abs().max() < 1.95 / 200  # Kolmogorov and Smirnov's bound at 0.1 %


def test_draws_from_a_generator_of_ones_own_are_left_alone():
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    expected = torch.rand(4, generator=generators[0])
    with entered(rows=4):
        assert torch.equal(torch.rand(4, generator=generators[1]), expected)


@pytest.mark.parametrize("weights", [True, False])
def test_dropout_inside_attention(weights, caplog):
    layer = nn.MultiheadAttention(6, 2, dropout=0.4, batch_first=True)
    model = Draws(layer, lambda m, x: m(x, x, x, need_weights=weights)[0])
    x = values(4, 3, 6)
    with entered(rows=4) as mode, torch.no_grad():
        first = layer(x, x, x, need_weights=weights)[0]
        assert mode.used
    assert not torch.equal(first, layer.eval()(x, x, x)[0])
    layer.train()
    dropped = check_own(model)
    assert not caplog.text
    layer.dropout = 0.0
    assert not torch.equal(check_own(model), dropped)


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        (lambda: nn.GRU(6, 6, 2, dropout=0.5, batch_first=True), lambda m, x: m(x.expand(-1, 3, -1))[0]),
        (lambda: nn.AlphaDropout(0.5), lambda m, x: m(x)),
        (lambda: nn.Identity(), lambda m, x: x * (0.5 if torch.rand(()) < 0.5 else 1.0)),
        (lambda: nn.Identity(), lambda m, x: x * np.random.rand()),
    ],
    ids=["rnn", "alpha", "layer skipped", "numpy"],
)
def test_whatever_else_draws_makes_clients_train_one_at_a_time_with_seeds_of_their_own(layer, call, caplog):
    model = Draws(layer(), call)
    check_own(model)
    assert "one at a time" in caplog.text
    assert "at random" in caplog.text or "random numbers from a global generator" in caplog.text


class Later(nn.Module):
    """Drops nothing until it is told to."""

    def __init__(self):
        super().__init__()
        self.linear, self.p = nn.Linear(6, 6), 0.0

    def forward(self, x):
        return F.dropout(self.linear(x), self.p) if self.p else self.linear(x)


def test_a_model_that_drops_later_than_before_is_looked_at_again():
    ways, model = KnownWays(), Later()
    trained(model, [0, 1], ways)
    (way,) = ways.found.values()
    assert not way.drops
    model.p = 0.5
    found = trained(model, [0, 1], ways)
    (way,) = ways.found.values()
    assert way.drops
    assert way.alone is None
    assert torch.equal(found["linear.weight:A"], trained(model, [0, 1])["linear.weight:A"])
