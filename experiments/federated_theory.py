"""The federated theorem, measured: the floor against its causes, and contraction against the bound."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from experiments.recorded import Floats, gaps, made, problem, runs, table
from fedrac.algorithm.blocks import plan_blocks
from fedrac.experiment import compose
from fedrac.experiment.settings import parse
from fedrac.models import build
from fedrac.results.report import style
from fedrac.results.report.runs import Run
from fedrac.theory.rates import Setting, setting

TITLE = "The federated theorem: floors and contraction"
EXPERIMENT = "federated_theory"
Points = list[tuple[float, float]]


def section(folder: Path, figures: Path) -> str:
    """The part of the page, and its two figures."""
    found = runs(folder)
    parts = {
        name: [run for run in found if run.name.split("/")[0] == name]
        for name in ("gamma", "cohort", "eta", "rank", "contraction")
    }
    if not all(parts.values()):
        return made(found)
    minimum = problem(EXPERIMENT).minimum
    floors = {
        "gamma": _points(parts["gamma"], lambda run: run.config["local.lr"], minimum),
        "eta": _points(parts["eta"], _eta, minimum),
        "cohort": _points(parts["cohort"], _rho, minimum),
        "rank": _points(parts["rank"], lambda run: float(run.config["rank"]), minimum),
    }
    predicted = _predicted(parts)
    _draw_floors(floors, predicted, figures / "federated_floors")
    _draw_contraction(parts["contraction"], minimum, figures / "federated_contraction")
    return "\n\n".join(
        [
            "Least squares with ridge, 20 clients of 8 examples that differ; one example a local step, so K = 8. Every "
            "step size is a share of the largest that the theorem admits (`fedrac theory --steps --gamma SHARE --eta "
            "SHARE experiment=federated_theory ...`). The floor is the mean of `f - f*` over the last half of the "
            "rounds and over seeds.",
            "![Floor against gamma, eta, rho and rank](figures/federated_floors.svg)",
            _slopes(floors, predicted),
            "Dashed: for gamma the line of slope 2 through the smallest gamma; for the others "
            "`eta rho zeta*^2 / 4`, which holds for least squares when gamma and eta are small, with "
            "`zeta*^2 = (1/M) sum_c ||grad f_c(W*)||^2`. No constant is fitted.",
            "![Gap over rounds against the bound](figures/federated_contraction.svg)",
            _contraction(parts["contraction"], minimum),
            _bounds(found, minimum),
            made(found),
        ]
    )


def known(run: Run) -> Setting:
    """The theorem's constants for a recorded run."""
    cell = [f"experiment={EXPERIMENT}", f"rank={run.config['rank']}", f"cohort.size={run.config['cohort.size']}"]
    experiment = parse(compose.load(cell))
    blocks = plan_blocks(build(experiment.model, experiment.seed), experiment.adapt, experiment.method)
    return setting(experiment, problem(EXPERIMENT), blocks)


def _eta(run: Run) -> float:
    return float(run.config["server.eta"]) * float(run.config["local.lr"]) * 8


def _rho(run: Run) -> float:
    size = run.config["cohort.size"]
    return float((20 - size) / (size * 19))


def floor(run: Run, minimum: float) -> float:
    """Mean gap over the last half of the rounds."""
    rounds, gap = gaps(run, minimum)
    return float(gap[rounds > rounds[-1] / 2].mean())


def _points(found: Sequence[Run], of: Callable[[Run], float], minimum: float) -> Points:
    """Mean floor over seeds by what is varied, ascending."""
    values: dict[float, list[float]] = {}
    for run in found:
        values.setdefault(round(of(run), 12), []).append(floor(run, minimum))
    return [(x, float(np.mean(y))) for x, y in sorted(values.items())]


def _predicted(parts: dict[str, list[Run]]) -> dict[str, Callable[[float], float]]:
    """``eta rho zeta*^2 / 4``, as a function of what each panel varies."""
    noise = problem(EXPERIMENT).noise
    eta = _eta(parts["cohort"][0])
    level = _eta(parts["rank"][0]) * _rho(parts["rank"][0]) * noise / 4
    rho = _rho(parts["eta"][0])
    return {
        "cohort": lambda x: eta * x * noise / 4,
        "eta": lambda x: x * rho * noise / 4,
        "rank": lambda x: level,
    }


def _slope(points: Points) -> float:
    x, y = np.log(np.array([point for point in points if point[0] > 0])).T
    return float(np.polyfit(x, y, 1)[0])


def _slopes(floors: dict[str, Points], predicted: dict[str, Callable[[float], float]]) -> str:
    ratios = {name: [y / predicted[name](x) for x, y in floors[name]] for name in predicted}
    rows = [
        ["gamma (C = M, eta fixed)", f"{_slope(floors['gamma']):.2f}", "2", "-"],
        ["eta (C = 5)", f"{_slope(floors['eta']):.2f}", "1", _range(ratios["eta"])],
        ["rho(C, M) (C = 1 to 19)", f"{_slope(floors['cohort']):.2f}", "1", _range(ratios["cohort"])],
        ["rank 1 to 6 (C = 5)", f"{_slope(floors['rank']):.2f}", "0", _range(ratios["rank"])],
    ]
    return table(["the floor against", "slope in logarithms", "theory", "measured / predicted"], rows)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _rate(members: Sequence[Run], minimum: float) -> float:
    """Contraction of the mean gap a round, while it is far above the floor."""
    rounds, mean = _mean(members, minimum)
    far = np.flatnonzero(mean > 30 * mean[-1])
    last = max(int(far[-1]) if len(far) else 1, 1)
    return float((mean[last] / mean[0]) ** (1 / (rounds[last] - rounds[0])))


def _mean(members: Sequence[Run], minimum: float) -> tuple[Floats, Floats]:
    curves = [gaps(run, minimum) for run in members]
    return curves[0][0], np.mean([gap for _, gap in curves], axis=0)


def _by_rank(found: Sequence[Run]) -> dict[int, list[Run]]:
    return {
        rank: [run for run in found if run.config["rank"] == rank]
        for rank in sorted({run.config["rank"] for run in found})
    }


def _contraction(found: Sequence[Run], minimum: float) -> str:
    rows = []
    for rank, members in _by_rank(found).items():
        told = known(members[0]).predict(members[0].config["local.lr"], _eta(members[0]))
        rows.append([str(rank), f"{_rate(members, minimum):.3f}", f"{told.rate:.3f}"])
    return table(["rank (C = M)", "contraction a round, measured", "bound"], rows)


def _bounds(found: Sequence[Run], minimum: float) -> str:
    """How far every run's mean stays below the theorem's bound."""
    worst = 0.0
    cells: dict[tuple[str, ...], list[Run]] = {}
    for run in found:
        cells.setdefault(
            tuple(str(run.config[key]) for key in ("rank", "cohort.size", "local.lr", "server.eta", "rounds")), []
        ).append(run)
    for members in cells.values():
        told = known(members[0]).predict(members[0].config["local.lr"], _eta(members[0]))
        assert told.admissible
        rounds, mean = _mean(members, minimum)
        worst = max(worst, float((mean / (told.rate**rounds * mean[0] + told.drift + told.sampling))[1:].max()))
    return (
        f"In all {len(cells)} settings the mean gap stays below the theorem's bound at every evaluated round; it "
        f"reaches at most {worst:.0%} of it."
        if worst <= 1
        else f"**The bound is exceeded: {worst:.2f} of it is reached.**"
    )


_PANELS: dict[str, tuple[str, bool]] = {
    "gamma": ("local step gamma", True),
    "eta": ("server step eta", True),
    "cohort": ("rho(C, M)", True),
    "rank": ("rank", False),
}


def _draw_floors(floors: dict[str, Points], predicted: dict[str, Callable[[float], float]], path: Path) -> None:
    with style.figure(8.6, 6.2) as figure:
        for axes, (name, (label, logarithmic)) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
            x, y = np.array(floors[name]).T
            axes.plot(x, y, "o", color=style.COLOURS[0], label="measured")
            line = predicted.get(name, lambda at, x=x, y=y: y[0] * (at / x[0]) ** 2)
            axes.plot(x, [line(at) for at in x], "--", color=style.COLOURS[1], label="predicted")
            axes.set_yscale("log")
            if logarithmic:
                axes.set_xscale("log")
                axes.set_xticks(x, [f"{value:.2g}" for value in x])
                axes.xaxis.set_minor_formatter(NullFormatter())
            else:
                axes.set_ylim(min(y) / 3, max(y) * 3)
            axes.set_xlabel(label)
            axes.set_ylabel("floor of f - f*")
            axes.legend()
        style.save(figure, path)


def _draw_contraction(found: Sequence[Run], minimum: float, path: Path) -> None:
    ranks = _by_rank(found)
    with style.figure(5.6, 4.0) as figure:
        axes: Axes = figure.add_subplot()
        looks: list[dict[str, Any]] = [style.style(index) for index in range(len(ranks))]
        for (rank, members), look in zip(ranks.items(), looks, strict=True):
            rounds, mean = _mean(members, minimum)
            told = known(members[0]).predict(members[0].config["local.lr"], _eta(members[0]))
            axes.plot(rounds, mean, label=f"rank {rank}", color=look["color"])
            bound = told.rate**rounds * mean[0] + told.drift + told.sampling
            axes.plot(rounds, bound, "--", color=look["color"], label=f"bound, rank {rank}")
        axes.set_yscale("log")
        axes.set_xlim(0, max(rounds))
        axes.set_xlabel("round")
        axes.set_ylabel("f - f*, mean over seeds")
        style.legend(figure, axes)
        style.save(figure, path)
