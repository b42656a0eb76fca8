"""Linear and logistic regression of the paper (its Figures 2 and 3): speed against the rank."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.recorded import Floats, gaps, made, problem, quantiles, runs, table
from fedrac.results.report import style
from fedrac.results.report.runs import Run

SIZE = 10  # of W, in both directions
Kind = tuple[str, int]  # side, rank; ("full", 10) is full fine-tuning


def linear(folder: Path, figures: Path) -> str:
    """Figure 2."""
    start = (
        "W is 10 x 10, pre-trained on 3,000 examples of another truth and adapted to 1,000; ridge 1e-4 and a condition "
        "number of 16 (neither is given in the paper). One step along the whole gradient a block, of size 1/L: "
        "`fedrac theory experiment=linear_regression`."
    )
    return _section(folder, figures, "linear_regression", start, (1e-2, 1e-6))


def logistic(folder: Path, figures: Path) -> str:
    """Figure 3."""
    start = (
        "Ten classes, 2,000 examples, W is 10 x 10, from 0; ridge 1e-3 and a condition number of 16 (neither is given "
        "in the paper). L is the usual upper bound, so steps of 1/L are smaller than they could be: "
        "`fedrac theory experiment=logistic_regression`."
    )
    return _section(folder, figures, "logistic_regression", start, (1e-1, 1e-4))


def _section(folder: Path, figures: Path, experiment: str, start: str, between: tuple[float, float]) -> str:
    found = runs(folder)
    kinds: dict[Kind, list[Run]] = {}
    for run in found:
        full = run.config["method.train"] == "full"
        kinds.setdefault(
            ("full" if full else run.config["method.side"], SIZE if full else run.config["rank"]), []
        ).append(run)
    if ("full", SIZE) not in kinds:
        return made(found)
    minimum = problem(experiment).minimum
    curves = {kind: [_relative(run, minimum) for run in members] for kind, members in kinds.items()}
    _draw(curves, figures / experiment)
    return "\n\n".join(
        [
            start,
            _table(curves, between),
            f"Iterations in which the gap, relative to the first, falls from {between[0]:g} to {between[1]:g}: mean "
            "and standard deviation over seeds. Theory: the speed is r/n.",
            f"![Relative gap over iterations](figures/{experiment}.svg)",
            _equality(kinds),
            made(found),
        ]
    )


def _relative(run: Run, minimum: float) -> tuple[Floats, Floats]:
    rounds, gap = gaps(run, minimum)
    return rounds, gap / gap[0]


def crossing(rounds: Floats, gap: Floats, level: float) -> float:
    """Where the gap falls to ``level``, between two rounds as if it fell geometrically; nan if it never does."""
    below = np.flatnonzero(gap <= level)
    if not len(below) or below[0] == 0:
        return float("nan")
    end = int(below[0])
    share = np.log(gap[end - 1] / level) / np.log(gap[end - 1] / gap[end])
    return float(rounds[end - 1] + share * (rounds[end] - rounds[end - 1]))


def _table(curves: Mapping[Kind, Sequence[tuple[Floats, Floats]]], between: tuple[float, float]) -> str:
    taken = {
        kind: np.array([crossing(*curve, between[1]) - crossing(*curve, between[0]) for curve in members])
        for kind, members in curves.items()
    }
    full = taken["full", SIZE].mean()
    rows = []
    for side, rank in sorted(taken, key=lambda kind: (kind[0] != "full", kind)):
        own = taken[side, rank]
        deviation = f" ± {own.std(ddof=1):.0f}" if len(own) > 1 and side != "full" else ""
        name = "full fine-tuning" if side == "full" else f"RAC-LoRA, {side}, rank {rank}"
        rows.append([name, f"{own.mean():.0f}{deviation}", f"{full / own.mean():.3f}", f"{rank / SIZE:g}"])
    return table(["method", "iterations", "speed", "r/n"], rows)


def _equality(kinds: Mapping[Kind, Sequence[Run]]) -> str:
    """Full rank against full fine-tuning, seed by seed."""
    full = {run.seed: run.columns["train/objective"] for run in kinds["full", SIZE]}
    differences = [
        float(np.nanmax(np.abs(run.columns["train/objective"] - full[run.seed])))
        for (side, rank), members in kinds.items()
        for run in members
        if side != "full" and rank == SIZE and run.seed in full
    ]
    if not differences:
        return ""
    return (
        "At rank 10 (`H = I`) the objective is that of full fine-tuning at every iteration of every seed; the largest "
        f"difference is {max(differences):.1g}."
    )


def _draw(curves: Mapping[Kind, Sequence[tuple[Floats, Floats]]], path: Path) -> None:
    sides = [side for side in ("left", "right") if any(kind[0] == side for kind in curves)]
    ranks = sorted({rank for side, rank in curves if side != "full"})
    looks = dict(zip(ranks, style.styles(ranks), strict=True))
    with style.figure(4.4 * len(sides) + 0.4, 3.8) as figure:
        panels = figure.subplots(1, len(sides), squeeze=False, sharey=True)[0]
        for axes, side in zip(panels, sides, strict=True):
            for rank in ranks:
                x, spread = quantiles(curves[side, rank])
                every = slice(None, None, max(len(x) // 150, 1))  # a small file
                x, (low, median, high) = x[every], spread[:, every]
                floor = 1e-9
                axes.plot(x, np.maximum(median, floor), label=f"rank {rank}", **looks[rank])
                axes.fill_between(
                    x,
                    np.maximum(low, floor),
                    np.maximum(high, floor),
                    color=looks[rank]["color"],
                    alpha=0.15,
                    linewidth=0,
                )
            x, (_, median, _) = quantiles(curves["full", SIZE])
            axes.plot(
                x, np.maximum(median, floor), label="full fine-tuning", color="black", linestyle=":", linewidth=2.4
            )
            axes.set_yscale("log")
            axes.set_ylim(floor, 2)
            axes.set_xlim(
                0, max(x_[-1] for kind, members in curves.items() if kind[0] == side for x_, _ in members[:1]) * 0.6
            )
            axes.set_xlabel("iterations")
            axes.set_title(f"{side} sketch")
        panels[0].set_ylabel("gap relative to the first")
        style.legend(figure, panels[0])
        style.save(figure, path)
