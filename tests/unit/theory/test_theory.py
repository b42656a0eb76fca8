"""What is known of convex problems, against closed forms and against runs, and the command that prints it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_convergence import Ridge

from fedrac import data
from fedrac.algorithm.blocks import plan_blocks
from fedrac.cli.commands import theory as command
from fedrac.experiment import compose
from fedrac.experiment.run import run
from fedrac.experiment.settings import Experiment, parse
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.models import build
from fedrac.results.record import read_metrics
from fedrac.theory import rates
from fedrac.theory.affine import convex_problem

SMALL = [
    *("data=linear_regression", "data.examples=40", "data.test_examples=10", "data.features=4", "data.outputs=3"),
    *("data.clients=5", "data.heterogeneity=0.5", "data.unit=true", "partition=natural", "cohort.size=5"),
    *(
        "model=linear",
        "model.inputs=4",
        "model.outputs=3",
        "model.bias=false",
        "pretrain=none",
        "runtime.dtype=float64",
    ),
    *("local=theory", "local.l2=0.5", "local.batch_size=1"),
]
LOGISTIC = [
    *(o for o in SMALL if not o.startswith("data=") and "outputs" not in o),
    *("data=logistic_regression", "data.classes=3", "model.outputs=3", "local.l2=0.1"),
]


def configured(*overrides: str) -> Experiment:
    return parse(compose.load(overrides))


def known(*overrides: str) -> rates.Setting:
    experiment = configured(*overrides)
    blocks = plan_blocks(build(experiment.model, experiment.seed), experiment.adapt, experiment.method)
    return rates.setting(experiment, convex_problem(experiment), blocks)


def ridge() -> Ridge:
    """The same problem in closed form."""
    examples = data.load(configured(*SMALL).data).train
    x, y = (torch.tensor(part).double().reshape(5, 8, -1) for part in (examples.inputs, examples.targets))
    return Ridge(x, y, 0.5)


def test_least_squares_has_the_constants_of_its_closed_form() -> None:
    found, expected = convex_problem(configured(*SMALL)), ridge()
    assert found.smoothness("example") == pytest.approx(expected.smoothness(), rel=1e-9)
    assert found.convexity == pytest.approx(expected.convexity(), rel=1e-9)
    assert found.minimum == pytest.approx(expected.best(), rel=1e-9)
    assert (found.between, found.within) == pytest.approx(expected.dissimilarity(), rel=1e-7)
    assert found.value(found.start) == pytest.approx(float(expected.value(found.start.reshape(3, 4))), rel=1e-9)
    assert 0 < found.smoothness("f") < found.smoothness("client") < found.smoothness("example")


def test_without_ridge_the_smallest_curvature_that_is_not_zero_counts() -> None:
    """Each of 2 examples in 4 directions: least squares is not strongly convex, but has a PL constant."""
    few = [*SMALL, "data.examples=2", "data.clients=1", "cohort.size=1", "local.l2=0"]
    x = torch.tensor(data.load(configured(*few).data).train.inputs).double()
    expected = torch.linalg.eigvalsh(x @ x.T / 2)[0]
    problem = convex_problem(configured(*few))
    assert problem.convexity == pytest.approx(float(expected), rel=1e-6)
    assert problem.within == pytest.approx(0.0, abs=1e-12)


def test_logistic_regression_is_minimised_and_bounded() -> None:
    """The gradient at the minimiser vanishes; the Hessian anywhere lies between mu and L."""
    problem = convex_problem(configured(*LOGISTIC))
    w = problem.minimiser.clone().requires_grad_()
    outputs = (problem.jacobian @ w + problem.offset).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(outputs, problem.targets.flatten()) + 0.05 * w.square().sum()
    (slope,) = torch.autograd.grad(loss, [w])
    assert slope.abs().max() < 1e-8 and loss.item() == pytest.approx(problem.minimum, rel=1e-12)
    assert problem.convexity == 0.1
    for point in (problem.start, 0 * problem.start):
        gradient, hessian = problem.derivatives(point)
        values = torch.linalg.eigvalsh(hessian)
        assert gradient.abs().max() > 1e-3
        assert problem.convexity - 1e-12 <= values[0] and values[-1] <= problem.smoothness("f")
    assert problem.within >= problem.between > 0 and problem.noise > 0


def test_gradient_descent_is_theorem_5_5() -> None:
    full = [*SMALL, "local.sampling=full", "sketch.law=haar"]  # a law that never loses rank
    found = known(*full, "rank=1")
    problem = convex_problem(configured(*SMALL))
    assert found.largest_eta == 1 / problem.smoothness("f")
    predicted = found.predict(0.2, 0.2)
    assert predicted.admissible and predicted.drift == predicted.sampling == 0
    assert predicted.rate == pytest.approx(1 - 0.2 * problem.convexity / 3)
    assert not found.predict(2.0, 2.0).admissible
    assert known(*full, "method.side=right").slowest == 1 / 4
    assert known(*full, "method=fedavg").slowest == 1


def test_scalings_of_the_floor() -> None:
    """Drift falls with gamma squared, sampling is proportional to eta rho; neither feels the rank."""
    found = known(*SMALL, "cohort.size=2")
    assert found.rho == pytest.approx(3 / (2 * 4)) and found.steps == 8
    one, half = found.predict(1e-3, 1e-3), found.predict(5e-4, 1e-3)
    assert half.drift == pytest.approx(one.drift / 4) and half.sampling == one.sampling > 0
    assert found.predict(1e-3, 5e-4).sampling == pytest.approx(one.sampling / 2)
    assert known(*SMALL, "cohort.size=2", "rank=2").predict(1e-3, 1e-3).sampling == pytest.approx(one.sampling)
    assert known(*SMALL).predict(1e-3, 1e-3).sampling == 0


def test_runs_with_the_printed_steps_keep_the_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean gap of eight seeds, at every evaluated round."""
    base = [*SMALL, "cohort.size=3", "rounds=60", "evaluate.every=20", "evaluate.objective=true"]
    assert command.main(["--steps", *base]) == 0
    steps = capsys.readouterr().out.split()
    experiment, found = configured(*base, *steps), known(*base)
    eta = experiment.server.eta * experiment.local.lr * found.steps
    predicted = found.predict(experiment.local.lr, eta)
    assert predicted.admissible and eta == pytest.approx(found.largest_eta, rel=1e-5)
    # The initial model follows from the seed, so every run has a start of its own.
    runs = [gaps([*base, *steps, f"seed={seed}"], tmp_path / str(seed)) for seed in range(8)]
    first, *later = torch.tensor(runs).mean(0).tolist()
    for round_, gap in zip((20, 40, 60), later, strict=True):
        assert 0 < gap <= predicted.rate**round_ * first + predicted.drift + predicted.sampling
    assert later[-1] < later[0] < first


def gaps(overrides: Sequence[str], folder: Path) -> list[float]:
    """``f - f*`` before the first round and at every evaluated one."""
    settings = compose.load(overrides)
    problem = convex_problem(parse(settings))
    run(settings, InProcessGrid(client_app.app), folder)
    recorded = [line["train/objective"] for line in read_metrics(folder / "metrics.jsonl") if "train/objective" in line]
    return [value - problem.minimum for value in (problem.value(problem.start), *recorded)]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "the outputs are not affine in what is trained"),
        ([*SMALL, "partition=size", "partition.clients=5"], "clients have 3 to 13 examples"),
        ([*SMALL, "method=asymm_lora"], "no theorem covers AsymmLoRA"),
        ([*SMALL, "cohort.selection=size"], "uniform cohorts that all answer"),
        ([*SMALL, "cohort.available=0.5"], "uniform cohorts that all answer"),
        ([*SMALL, "system.speed=1", "system.deadline=1"], "uniform cohorts that all answer"),
        ([*SMALL, "method=fed_cola", "local.precondition=false"], "no theorem covers Fed-COLA"),
        ([*SMALL, "local=adamw"], "set local=theory"),
        ([*SMALL, "local.precondition=false"], "local.precondition=true"),
        ([*SMALL, "local.sampling=replacement"], "is not covered"),
        ([*SMALL, "server.schedule.shape=inverse"], "constant steps: set server.schedule={shape: constant"),
        ([*SMALL, "guard.clip=1.0"], "for the plain mean"),
        ([*SMALL, "--eta", "0"], "the shares must be positive"),
        ([*SMALL, "cohort.size=6"], "cohort.size=6 is larger than the population of 5"),
        ([*LOGISTIC, "local.l2=0"], "set local.l2 > 0"),
        ([*SMALL, "local.batch_size=3"], "local.batch_size=3 does not divide a client's 8 examples"),
        ([*SMALL, "method.fresh=false"], "set method.fresh=true"),
        ([*SMALL, "method=two_sided", "adapt.columns=2", "adapt.basis=weights"], "no adapt.basis=weights"),
    ],
)
def test_what_theory_does_not_cover_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        command.main(overrides)
    assert said in str(caught.value)


def test_the_last_layer_of_a_network_is_a_convex_problem(capsys: pytest.CaptureFixture[str]) -> None:
    frozen = ["model=mlp", "model.inputs=4", "model.hidden=[6]", "adapt.layers={*: frozen, layers.1: 1}"]
    assert command.main([*(o for o in SMALL if "model" not in o), *frozen, "model.outputs=3"]) == 0
    assert "18 trained numbers" in capsys.readouterr().out


def test_the_counterexample_is_the_quadratic_of_the_paper(tmp_path: Path) -> None:
    """``1/2 x^T M x - b^T x`` with M = Diag(10, 1, ..., 1), b = 10 (1, ..., 1), x = W row by row, from W = 0."""
    base = ["data=quadratic", "model=scaled_linear", "partition=iid", "partition.clients=1", "cohort.size=1"]
    base += ["local=theory", "local.sampling=full", "pretrain=none", "runtime.dtype=float64"]
    problem = convex_problem(configured(*base))
    diagonal = torch.tensor([10.0] + 8 * [1.0]).double()
    assert problem.smoothness("f") == pytest.approx(10, rel=1e-6) and problem.convexity == pytest.approx(1, rel=1e-6)
    assert torch.equal(problem.start, torch.zeros(9).double())
    for x in (torch.zeros(9), torch.arange(9.0), torch.linspace(-2, 3, 9)):
        value = 0.5 * (diagonal * x.double().square()).sum() - 10 * x.double().sum() + 405  # f* = -405
        assert problem.value(x.double()) == pytest.approx(float(value), rel=1e-6)
    with pytest.raises(ValueError, match=r"data.curvature=\[1\]: give 9 positive numbers"):
        data.load({**configured(*base).data, "curvature": [1]})


def test_a_law_that_loses_rank_promises_less() -> None:
    """Five Rademacher vectors of six entries have a mean rank of 4.6124 (by counting all of them), not 5."""
    side = ["data.features=6", "model.inputs=6", "method.side=right", "rank=5"]
    base = [o for o in SMALL if "features" not in o and "inputs" not in o]
    found, haar = (known(*base, *side, f"sketch.law={law}").slowest for law in ("rademacher", "haar"))
    assert haar == pytest.approx(5 / 6) and found == pytest.approx(4.6124277 / 6, rel=2e-3)


@pytest.mark.parametrize(("fresh", "low", "said"), [(1, 0.5 / 3, "E[H] from"), (0, 0.0, "lam_min = 0: the run conv")])
def test_two_sided_rates(fresh: int, low: float, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """(p/m) k1/(n - k0) with m, n, p, k = 4, 4, 2, 2."""
    sides = ["method=two_sided", "rank=2", "adapt.columns=2", "adapt.basis=cosine", f"adapt.fresh_columns={fresh}"]
    chosen = [*(o for o in SMALL if "outputs" not in o), "data.outputs=4", "model.outputs=4", *sides, "sketch.law=haar"]
    found = known(*chosen)
    assert (found.slowest, found.fastest) == pytest.approx((low, 0.5))
    assert found.predict(1e-3, found.largest_eta).rate == pytest.approx(
        1 - found.largest_eta * found.convexity * (low or 0.5) / 2
    )
    assert command.main(chosen) == 0
    assert said in capsys.readouterr().out
