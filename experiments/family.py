"""The whole family side by side: every method with its own rates, on MNIST and on the movie reviews."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.communication import reached
from experiments.family_trials import files, measure, shown
from experiments.recorded import finished, made, mean_sd, percent, runs, table
from fedrac import models
from fedrac.algorithm.blocks import Block, plan_blocks, trained_shapes
from fedrac.algorithm.method import RoundMethod
from fedrac.experiment import compose
from fedrac.experiment.settings import parse
from fedrac.results.report import style
from fedrac.results.report.runs import Run

TITLE = "The whole family, each with rates of its own"
DIVISIONS = {"IID": "iid", "Dirichlet 0.5": "0.5", "Dirichlet 0.1": "0.1"}


@dataclass(frozen=True)
class Setting:
    """Where the methods are compared.

    Attributes:
        experiment: which option of the settings.
        main: the division that is read most closely.
        level: the accuracy that bytes and time are counted to.
        window: of how many evaluations in a row the mean must hold it.
    """

    experiment: str
    main: str
    level: float
    window: int


MNIST = Setting("family", "Dirichlet 0.5", 0.95, 3)
REVIEWS = Setting("movies_family", "accuracy", 0.75, 1)


def section(folder: Path, figures: Path) -> str:
    """The part of the page, and its figure."""
    parts = []
    if found := _found(folder / "mnist", DIVISIONS):
        _draw(found, figures / "family")
        parts += ["### MNIST", _table(found, MNIST), _PICTURE]
        parts += [shown(runs(folder / "grid")), made([run for group in found.values() for run in group])]
    if found := _found(folder / "movies", {"accuracy": "runs"}):
        parts += ["### Movie reviews", _MOVIES, _table(found, REVIEWS)]
        parts += [shown(runs(folder / "movies_grid")), made(found["accuracy"])]
    return "\n\n".join(parts) if parts else made([])


_MOVIES = "The setting of [the movie reviews](#movie-reviews-minilm) at rank 8, by the accuracy on movies of no client."
_PICTURE = "![Accuracy of every method in three divisions](figures/family.svg)"


def _found(folder: Path, places: Mapping[str, str]) -> dict[str, list[Run]]:
    found = {name: finished(runs(folder / place)) for name, place in places.items()}
    return {name: members for name, members in found.items() if members}


def worst_tenth(run: Run) -> float:
    """Of the clients that test, on what they have."""
    return float(run.columns[measure(run).replace("test/", "clients/").replace("clients/", "clients/worst10_")][-1])


def held(stem: str, experiment: str, checkpoint: str | None = None) -> int:
    """Numbers that a client of a method holds while it trains, beside examples and activations.

    Args:
        stem: names the method's settings.
        experiment: whose rates they are.
        checkpoint: of the model, where it is of a folder.
    """
    model_of = [f"model.checkpoint='{checkpoint}'"] if checkpoint else []
    found = parse(compose.load([f"experiment={experiment}", f"method={stem}", *model_of]))
    model = models.build(found.model, found.seed)
    blocks, copies = plan_blocks(model, found.adapt, found.method), {"adamw": 4, "sgd": 2}[found.local.optimizer]
    copies += found.method.keeps_controls + found.method.sends_controls
    rounds = [found.method.at(number) for number in (1, 2)]  # sides may alternate
    most = max(copies * _count(trained_shapes(blocks, at)) + _count(_frozen_shapes(blocks, at)) for at in rounds)
    return sum(x.numel() for x in model.parameters()) + most


def _frozen_shapes(blocks: Sequence[Block], at: RoundMethod) -> dict[str, Sequence[int]]:
    """Of the factors beside those that are trained."""
    return {b.key(x): b.factor_shape(x) for b in blocks for x in b.drawn_letters(at) if x not in b.trained_letters(at)}


def _count(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _table(found: Mapping[str, Sequence[Run]], setting: Setting) -> str:
    """The best of the main division first."""
    stems, rows = files(), list[tuple[float, list[str]]]()
    for name in dict.fromkeys(str(run.config["method.name"]) for run in found[setting.main]):
        members = {d: [run for run in group if run.config["method.name"] == name] for d, group in found.items()}
        final = {d: [float(run.columns[measure(run)][-1]) for run in group] for d, group in members.items()}
        main = members[setting.main]
        row = [name, f"{_sent(main):,.0f}", *(mean_sd(values, percent) for values in final.values())]
        row += [mean_sd([worst_tenth(run) for run in main], percent), *_costs(main, setting)]
        kept = held(stems[name], setting.experiment, main[0].config.get("model.checkpoint"))
        row += [f"{kept / 1e3:,.0f} k"]
        rows.append((-float(np.mean(final[setting.main])), row))
    to = f"to {100 * setting.level:.0f} %"
    head = ["method", "uploads", *found, "worst tenth", f"up {to}", f"down {to}", f"time {to}", "held"]
    return table(head, [row for _, row in sorted(rows)])


def _sent(members: Sequence[Run]) -> float:
    """Numbers that a client uploads in a round; what is coded counts as the numbers that take as many bytes."""
    return float(np.mean([run.columns["upload_bytes"] for run in members])) / int(members[0].config["cohort.size"]) / 4


def _costs(members: Sequence[Run], setting: Setting) -> list[str]:
    """Bytes up and down, and simulated time, to the level; in brackets how many runs get there, if not all."""
    found = [reached(run, measure(run), setting.level, setting.window) for run in members]
    there = [(run, int(at) - 1) for run, at in zip(members, found, strict=True) if np.isfinite(at)]
    if not there:
        return ["-"] * 3
    some = f" ({len(there)})" if len(there) < len(members) else ""
    up, down, seconds = (
        float(np.mean([run.total(column)[at] for run, at in there]))
        for column in ("upload_bytes", "download_bytes", "simulated_seconds")
    )
    cohort = int(members[0].config["cohort.size"])
    return [
        *(f"{style.show_bytes(size / cohort)}{some}" for size in (up, down)),
        f"{style.show_seconds(seconds)}{some}",
    ]


def _draw(found: Mapping[str, Sequence[Run]], path: Path) -> None:
    """A row a method, the best at the top: its accuracy in every division, and what a client uploads."""
    kinds = {d: _by_method(group) for d, group in found.items()}
    names = sorted(kinds[MNIST.main], key=lambda name: float(np.mean(kinds[MNIST.main][name])))
    sent = {str(run.config["method.name"]): float(run.total("upload_bytes")[-1]) for run in found[MNIST.main]}
    with style.figure(8.4, 0.27 * len(names) + 1.2) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        for (division, values), look in zip(kinds.items(), style.marked(style.styles(list(kinds))), strict=True):
            means = [100 * float(np.mean(values[name])) for name in names]
            spread = [100 * float(np.std(values[name], ddof=len(values[name]) > 1)) for name in names]
            left.errorbar(means, names, xerr=spread, label=division, **{**look, "linestyle": "none"}, capsize=2)
        cohort = int(found[MNIST.main][0].config["cohort.size"])
        right.barh(names, [sent[name] / cohort for name in names], color=style.COLOURS[0], height=0.5)
        left.set(xlabel="accuracy after the last round (%)")
        right.set(xscale="log", xlabel="uploaded by a client (bytes)")
        left.grid(axis="y", alpha=0.3)
        style.legend(figure, left)
        style.save(figure, path)


def _by_method(found: Sequence[Run]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for run in found:
        values.setdefault(str(run.config["method.name"]), []).append(float(run.columns[measure(run)][-1]))
    return values
