"""The laws and bounds of convergence, by running the library's own rounds.

Sections are those of the specification: 5.1 gradient descent, 5.2 random reshuffling, 5.3 SGD, 5.4 the federated
method. Every mean of random quantities is held against its law within 4 standard errors; a bound must not be
exceeded by the mean over at least 200 runs.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from federation import Federation
from torch import Tensor, nn
from workloads import Workload, squared

from fedrac.algorithm import basis
from fedrac.algorithm.method import Method
from fedrac.algorithm.sketch import projection
from fedrac.theory import rates
from fedrac.training.optimizer import LocalSpec

SIDES = ("left", "right")


class Runs(nn.Module):
    """Independent runs side by side: one layer each, with sketches of its own, and losses that only add up."""

    def __init__(self, runs: int, n: int, m: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m, bias=False) for _ in range(runs)).double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([layer(x) for layer in self.layers], 1)

    def set(self, w: Tensor) -> None:
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(w)


def stacked(f: Federation) -> Tensor:
    """The runs' weights, (runs, m, n)."""
    return torch.stack([f.state.weights[block.name] for block in f.blocks])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def within(samples: Tensor, law: Tensor | float) -> None:
    """The mean over the first axis is within 4 standard errors of the law."""
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - law).abs() <= 4 * error + 1e-12).all(), (samples.mean(0), law, error)


# --- 5.1: one full-gradient step a round ---------------------------------------------------------------------------


def quadratic(spectrum: Tensor, m: int, runs: int, side: str, rank: int, gamma: float, law="popcount") -> Federation:
    """``f(W) = 1/2 tr(W S W^T)`` with S = Diag(spectrum): least squares with targets 0 on scaled unit vectors."""
    n = len(spectrum)
    inputs = torch.diag((n * spectrum).sqrt())
    model = Runs(runs, n, m)
    model.set(normal(1, m, n))
    work = Workload(model, inputs, torch.zeros(n, runs, m, dtype=torch.float64), squared)
    local = LocalSpec(lr=gamma, sampling="full", precondition=True)
    return Federation(work, [torch.arange(n)], Method(side=side), local, {"*": rank}, law=law)


@pytest.mark.parametrize(("rank", "factor"), [(1, 0.98781), (2, 0.97563), (4, 0.95125), (8, 0.90250)])
def test_13_contraction_of_the_specification(rank, factor):
    """m = 8 and gamma l = 0.05 in every direction: 1 - (r/8) 0.05 (2 - 0.05) a round."""
    f = quadratic(torch.full((5,), 0.5, dtype=torch.float64), 8, 20, "left", rank, 0.1)
    ratios, before = [], stacked(f)
    for _ in range(60):
        f.round()
        after = stacked(f)
        ratios.append(after.square().sum((1, 2)) / before.square().sum((1, 2)))
        before = after
    within(torch.cat(ratios), 1 - rank / 8 * 0.05 * 1.95)
    assert torch.cat(ratios).mean().item() == pytest.approx(factor, abs=1.5e-3)


@pytest.mark.parametrize("law", ["popcount", "gaussian", "haar", "coordinate"])
def test_13_quadratic_law_left(law):
    """In mode j the loss shrinks in expectation by exactly ``1 - (r/m) gamma l_j (2 - gamma l_j)``, any step."""
    m, rank, gamma = 6, 2, 1.2
    spectrum = torch.tensor([1.5, 1.0, 0.4, 0.1], dtype=torch.float64)
    f = quadratic(spectrum, m, 20, "left", rank, gamma, law)
    ratios, before = [], stacked(f)
    for _ in range(60):
        f.round()
        after = stacked(f)
        ratios.append(after.square().sum(1) / before.square().sum(1))
        before = after
    within(torch.cat(ratios), 1 - rank / m * gamma * spectrum * (2 - gamma * spectrum))


@pytest.mark.parametrize("law", ["gaussian", "haar"])
def test_13_quadratic_law_right(law):
    """``E f(W+) = f - gamma (r/n) ||G||^2 + (gamma^2/2) tr(G E[HSH] G^T)``."""
    m, n, rank, gamma = 3, 5, 2, 1.2
    spectrum = torch.tensor([1.5, 1.0, 0.4, 0.1, 0.7], dtype=torch.float64)
    b = rank * (n - rank) / (n * (n - 1) * (n + 2))
    a = rank / n - (n + 1) * b
    hsh = (a + b) * spectrum + b * spectrum.sum()
    f = quadratic(spectrum, m, 20, "right", rank, gamma, law)
    ratios = []
    for _ in range(60):
        w = stacked(f)
        g = w * spectrum
        law_of_mean = (w * g).sum((1, 2)) / 2 - gamma * rank / n * g.square().sum((1, 2))
        law_of_mean += gamma**2 / 2 * (g.square() * hsh).sum((1, 2))
        f.round()
        ratios.append((stacked(f).square() * spectrum).sum((1, 2)) / 2 / law_of_mean)
    within(torch.cat(ratios), 1.0)
    assert torch.cat(ratios).std() > 0.1


@pytest.mark.parametrize(("side", "rank"), [("left", 1), ("left", 3), ("right", 2)])
def test_14_gradient_descent_bound_under_pl(side, rank):
    """5.1: ``E f(W^T) - f* <= (1 - gamma mu lam)^T Delta0`` with gamma = 1/L, for 200 runs at every T."""
    spectrum = torch.tensor([2.0, 1.0, 0.5, 0.3], dtype=torch.float64)
    gamma, m = 1 / 2.0, 6
    f = quadratic(spectrum, m, 200, side, rank, gamma)
    lam = rank / (m if side == "left" else 4)
    delta0 = float((stacked(f)[0].square() * spectrum).sum() / 2)
    for t in range(1, 11):
        f.round()
        mean = float((stacked(f).square() * spectrum).sum((1, 2)).mean() / 2)
        assert mean <= (1 - gamma * 0.3 * lam) ** t * delta0
    assert mean < 0.95 * delta0


@pytest.mark.parametrize(("side", "rank"), [("left", 1), ("left", 3), ("right", 2)])
def test_14_gradient_descent_bound_nonconvex(side, rank):
    """5.1: ``E ||grad f(W~)||^2 <= 2 Delta0 / (lam gamma T)`` for W~ uniform over the first T iterates."""
    runs, m, n, rows = 200, 5, 4, 12
    inputs, targets = normal(2, rows, n), normal(3, rows, m)

    def loss(outputs, wanted):
        gap = outputs - wanted.unsqueeze(1)
        return (gap.square() / (1 + gap.square())).flatten(1).sum(1)

    model = Runs(runs, n, m)
    model.set(normal(4, m, n))
    # u -> u^2/(1+u^2) has a second derivative of at most 2; S is the covariance of the inputs.
    smooth = 2 * float(torch.linalg.eigvalsh(inputs.T @ inputs / rows).max())
    local = LocalSpec(lr=1 / smooth, sampling="full", precondition=True)
    work = Workload(model, inputs, targets, loss)
    f = Federation(work, [torch.arange(rows)], Method(side=side), local, {"*": rank})

    def state():
        leaf = stacked(f).requires_grad_()
        values = loss(torch.einsum("xn,rmn->xrm", inputs, leaf), targets)
        (g,) = torch.autograd.grad(values.mean(), [leaf])
        return float(values.mean().detach()) / runs, float(g.square().sum()) / runs

    delta0, lam = state()[0], rank / (m if side == "left" else n)  # f* >= 0
    squares = []
    for t in range(1, 15):
        squares.append(state()[1])
        f.round()
        assert np.mean(squares) <= 2 * delta0 * smooth / (lam * t)
    assert state()[0] < 0.95 * delta0


# --- least squares with ridge, split over clients ------------------------------------------------------------------


@dataclass(frozen=True)
class Ridge:
    """``f_{m,i}(W) = 1/2 |W x - y|^2 + l2/2 ||W||^2``: client m's example i; every quantity of the theorems exactly.

    Attributes:
        x: (M, N, n).
        y: (M, N, k).
    """

    x: Tensor
    y: Tensor
    l2: float = 0.5

    @property
    def clients(self) -> int:
        return len(self.x)

    @property
    def examples(self) -> int:
        return self.x.shape[1]

    def smoothness(self) -> float:
        """L: bounds every component function."""
        return float(self.x.square().sum(2).max()) + self.l2

    def convexity(self) -> float:
        """mu of f."""
        flat = self.x.flatten(0, 1)
        return float(torch.linalg.eigvalsh(flat.T @ flat / len(flat)).min()) + self.l2

    def minimum(self, x: Tensor, y: Tensor) -> float:
        """inf of the mean over the examples (N, n), (N, k)."""
        w = torch.linalg.solve(x.T @ x / len(x) + self.l2 * torch.eye(x.shape[1]).double(), x.T @ y / len(x)).T
        return float(self.value(w, x, y))

    def value(self, w: Tensor, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """f at w (..., k, n), (...)."""
        x, y = (self.x.flatten(0, 1), self.y.flatten(0, 1)) if x is None or y is None else (x, y)
        gap = x @ w.mT - y
        return gap.square().sum((-1, -2)) / (2 * len(x)) + self.l2 / 2 * w.square().sum((-1, -2))

    def best(self) -> float:
        return self.minimum(self.x.flatten(0, 1), self.y.flatten(0, 1))

    def dissimilarity(self) -> tuple[float, float]:
        """(Delta*, sigma*) of Assumption F.1."""
        own = [self.minimum(x, y) for x, y in zip(self.x, self.y, strict=True)]
        single = [
            [self.minimum(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
            for x, y in zip(self.x, self.y, strict=True)
        ]
        return self.best() - float(np.mean(own)), float(np.mean(own) - np.mean(single))

    def federation(self, method: Method, rank: int, local: LocalSpec, seed: int, **settings) -> Federation:
        model = nn.Linear(self.x.shape[2], self.y.shape[2], bias=False).double()
        with torch.no_grad():
            model.weight.copy_(start(self))
        work = Workload(model, self.x.flatten(0, 1), self.y.flatten(0, 1), squared)
        rows = list(torch.arange(self.clients * self.examples).split(self.examples))
        return Federation(work, rows, method, local, {"*": rank}, seed=seed, **settings)


def start(problem: Ridge) -> Tensor:
    return 2 * normal(5, problem.y.shape[2], problem.x.shape[2])


def ridge(clients: int, examples: int, n: int = 4, k: int = 5) -> Ridge:
    x, y = normal(6, clients, examples, n), normal(7, clients, examples, k) + normal(8, clients, 1, k)
    return Ridge(x / x.square().sum(2).max().sqrt(), y)


def trajectories(problem: Ridge, rounds: int, runs: int, **settings) -> Tensor:
    """The weights of every run before the first and after every round, (runs, 1 + rounds, k, n)."""
    paths = []
    for seed in range(runs):
        f = problem.federation(seed=seed, **settings)
        path = [f.state.weights["weight"]]
        for _ in range(rounds):
            f.round()
            path.append(f.state.weights["weight"])
        paths.append(torch.stack(path))
    return torch.stack(paths)


def mean_gaps(problem: Ridge, paths: Tensor) -> list[float]:
    """``E f(W^t) - f*`` for t = 0, 1, ..."""
    return (problem.value(paths) - problem.best()).mean(0).tolist()


@pytest.mark.slow
def test_14_random_reshuffling_bound_under_pl():
    """5.2, one node: ``(1 - 3/4 gamma N mu lam)^T Delta0 + 2/3 kap gamma^2 L^2 N sigma^2 / mu``."""
    problem, rank = ridge(1, 4), 2
    big_l, mu, n, lam = problem.smoothness(), problem.convexity(), 4, rank / 5
    gamma = 1 / (2 * big_l * n)
    local = LocalSpec(lr=gamma, batch_size=1, precondition=True, l2=problem.l2)
    paths = trajectories(problem, 6, 200, method=Method(), rank=rank, local=local)
    gaps = mean_gaps(problem, paths)
    # sigma^2: the largest variance of the component gradients that any round of any run started from.
    g = torch.einsum("rtik,in->rtikn", problem.x[0] @ paths.mT - problem.y[0], problem.x[0])
    sigma2 = float((g - g.mean(2, keepdim=True)).square().sum((3, 4)).mean(2).max())
    noise = 2 / 3 * gamma**2 * big_l**2 * n * sigma2 / mu
    for t, gap in enumerate(gaps):
        assert gap <= (1 - 0.75 * gamma * n * mu * lam) ** t * gaps[0] + noise
    assert gaps[-1] < 0.9 * gaps[0]


@pytest.mark.slow
def test_14_sgd_bound_under_pl():
    """5.3: one step of one example a round, as a cohort of 1 among clients of one example.

    ``(1 - gamma mu lam / 2)^T Delta0 + kap L C gamma / mu`` with A = L, B = 0, C = 2 L (f* - mean_i inf f_i).
    """
    problem, rank = ridge(12, 1), 2
    big_l, mu, lam = problem.smoothness(), problem.convexity(), rank / 5
    spread, inside = problem.dissimilarity()
    assert abs(inside) < 1e-12
    gamma = mu / (2 * big_l**2)
    local = LocalSpec(lr=gamma, batch_size=1, precondition=True, l2=problem.l2)
    gaps = mean_gaps(problem, trajectories(problem, 12, 200, method=Method(), rank=rank, local=local, cohort=1))
    for t, gap in enumerate(gaps):
        assert gap <= (1 - gamma * mu * lam / 2) ** t * gaps[0] + 2 * big_l**2 * spread * gamma / mu
    assert gaps[-1] < 0.9 * gaps[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "rank", "cohort", "epochs"), [("left", 1, 8, 1), ("left", 2, 3, 2), ("right", 3, 3, 1)]
)
def test_14_federated_bound_under_pl(side, rank, cohort, epochs):
    """5.4 for an admissible gamma and eta, at every T, and the one-round inequality at the start."""
    problem, method = ridge(8, 3), Method(side=side)
    big_l, mu = problem.smoothness(), problem.convexity()
    n, k_steps, lam = 3, 3 * epochs, rank / (5 if side == "left" else 4)
    spread, inside = problem.dissimilarity()
    rho = (8 - cohort) / (cohort * 7)
    gamma = min(0.5, (mu / (12 * big_l)) ** 0.5) / (big_l * k_steps)
    eta = min(1 / big_l, mu / (8 * big_l**2 * rho) if rho else np.inf)
    local = LocalSpec(lr=gamma, batch_size=1, epochs=epochs, precondition=True, l2=problem.l2)
    settings = {"local": local, "cohort": cohort, "eta": eta / (gamma * k_steps)}
    gaps = mean_gaps(problem, trajectories(problem, 8, 200, method=method, rank=rank, **settings))

    k = 1 + 2 * big_l * eta * rho
    drift = k * big_l**3 * gamma**2 * (k_steps**2 * spread + n * inside)
    w = start(problem).requires_grad_()
    (g,) = torch.autograd.grad(problem.value(w), [w])
    a = lam * (k * eta * big_l**3 * gamma**2 * k_steps**2 + 2 * big_l**2 * eta**2 * rho)
    c = lam * (eta * drift + 2 * big_l**2 * eta**2 * rho * spread)
    assert gaps[1] <= (1 + a) * gaps[0] - eta * lam / 2 * float(g.square().sum()) + c
    floor = 2 / mu * (drift + 2 * big_l**2 * eta * rho * spread)
    for t, gap in enumerate(gaps):
        assert gap <= (1 - eta * mu * lam / 2) ** t * gaps[0] + floor
    assert gaps[-1] < gaps[1] < gaps[0]


# --- two-sided sketches -----------------------------------------------------------------------------------------------


def two_sided(fixed: int, seed: int) -> tuple[Federation, Tensor, Tensor]:
    """``f(W) = 1/2 tr((W - W*) S (W - W*)^T)`` with m, n, p, k = 5, 4, 2, 2, one client, steps of 1/L; S and P0."""
    spectrum = torch.tensor([1.0, 0.9, 0.8, 0.6], dtype=torch.float64)
    model = nn.Linear(4, 5, bias=False).double()
    inputs, targets = (4 * spectrum).sqrt().diag(), normal(3, 4, 5)
    work = Workload(model, inputs, targets, lambda y, t: 0.5 * (y - t).square().sum(1))
    rows = basis.random(2, "rows", 4, fixed)
    local = LocalSpec(lr=1.0, precondition=True, sampling="full")
    f = Federation(
        work, [torch.arange(4)], Method(side="both"), local, {"*": 2}, law="haar", seed=seed, columns=2, fixed=fixed,
        basis={"weight:A": rows},
    )  # fmt: skip
    return f, spectrum, rows.T @ rows


def gap(f: Federation) -> tuple[Tensor, Tensor]:
    """The distance of W from the optimum, and the gradient there."""
    x, y = f.workload.inputs, f.workload.targets
    w = f.state.weights["weight"]
    return w - torch.linalg.lstsq(x, y).solution.T, (x @ w.T - y).T @ x / len(x)


def test_a_fixed_basis_stops_at_the_best_of_its_span_and_a_fresh_row_does_not():
    confined, _, p0 = two_sided(2, 0)
    start = confined.state.weights["weight"]
    for _ in range(300):
        confined.round()
    off, gradient_there = gap(confined)
    assert (gradient_there @ p0).abs().max() < 1e-9 < 1e-2 < gradient_there.abs().max()
    moved = confined.state.weights["weight"] - start
    torch.testing.assert_close(moved @ p0, moved, rtol=0, atol=1e-12)
    free, _, _ = two_sided(1, 0)
    for _ in range(1000):
        free.round()
    assert gap(free)[0].abs().max() < 1e-9 < off.abs().max()


def test_14_two_sided_bound_under_pl():
    """``E f(W^T) - f* <= (1 - gamma mu lam)^T Delta0`` with lam = (p/m) k1/(n - k0) = 2/5 1/3."""
    values = []
    for seed in range(100):
        f, spectrum, _ = two_sided(1, seed)
        path = [float((gap(f)[0].square() * spectrum).sum() / 2)]
        for _ in range(12):
            f.round()
            path.append(float((gap(f)[0].square() * spectrum).sum() / 2))
        values.append(path)
    mean = np.mean(values, 0)
    lam = 2 / 5 * 1 / 3
    assert all(mean[t] <= (1 - 0.6 * lam) ** t * mean[0] for t in range(13)) and mean[-1] < 0.9 * mean[0]
    block = f.blocks[0]
    assert rates.eigenvalues(block, f.method.at(1), "haar") == pytest.approx((lam, 2 / 5))


def test_mean_of_a_two_sided_projection():
    """``E[H_L G H_R] = (p/m) [G P0 + k1/(n - k0) G (I - P0)]``."""
    f, _, p0 = two_sided(1, 0)
    g, total = normal(9, 5, 4), []
    for number in range(1, 4001):
        sketches = f.sketches(number).values
        total.append(projection(sketches["weight:B"], "left") @ g @ projection(sketches["weight:A"], "right"))
    expected = 2 / 5 * (g @ p0 + 1 / 3 * (g - g @ p0))
    within(torch.stack(total), expected)
