"""Recorded runs, as the tables and figures need them."""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from fedrac.experiment import compose
from fedrac.experiment.settings import parse
from fedrac.results.report.runs import Run, find, flat
from fedrac.theory.affine import convex_problem
from fedrac.theory.convex import Convex

Floats = NDArray[np.float64]


def runs(folder: Path) -> list[Run]:
    """All runs in a folder that ended, by their last round or by diverging; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return [*(run for run in find(folder, folder / "report")[0] if run.initial), *_diverged_at_once(folder)]


def _diverged_at_once(folder: Path) -> Iterator[Run]:
    """Runs without a finished round: the first one that there would be has nothing but infinities."""
    columns = {name: np.ones(1) for name in ("round", "seconds", "upload_bytes", "download_bytes")}
    for path in sorted(folder.rglob("summary.json")):
        summary = json.loads(path.read_text())
        if summary.get("diverged") and summary["rounds"] == 0:
            settings = OmegaConf.to_container(OmegaConf.load(path.parent / "config.yaml"))
            values = {name: np.array([np.nan]) for name in summary["initial"]}
            yield Run(
                str(path.parent.relative_to(folder)), dict(flat(settings)), {**columns, **values}, summary["initial"]
            )


def grouped(found: Sequence[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    """Runs by the values of some keys of their configuration, in order of these values."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in found:
        groups.setdefault(tuple(run.config[key] for key in keys), []).append(run)
    return dict(sorted(groups.items()))


def finished(found: Sequence[Run]) -> list[Run]:
    """Those that came to their last round."""
    return [run for run in found if run.rounds == run.planned]


@cache
def problem(experiment: str) -> Convex:
    """The convex problem of an experiment."""
    return convex_problem(parse(compose.load([f"experiment={experiment}"])))


def gaps(run: Run, minimum: float) -> tuple[Floats, Floats]:
    """Rounds, from 0, and ``f - f*`` after them; infinite where the run had diverged."""
    values = run.columns.get("train/objective", np.full(run.rounds, np.nan))  # it may diverge before it is evaluated
    known = np.isfinite(values) | (run.columns["round"] == run.rounds)
    rounds = np.concatenate([[0.0], run.columns["round"][known]])
    objective = np.concatenate([[run.initial["train/objective"]], np.nan_to_num(values[known], nan=np.inf)])
    return rounds, objective - minimum


def quantiles(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The longest run's rounds, and (3, rounds): the 10, 50 and 90 per cent quantiles of the runs.

    A run that ended earlier had diverged: its value is infinite from then on.
    """
    rounds = max((x for x, _ in curves), key=len)
    rows = np.full((len(curves), len(rounds)), np.inf)
    for row, (_, y) in zip(rows, curves, strict=True):
        row[: len(y)] = y
    return rounds, np.quantile(rows, [0.1, 0.5, 0.9], axis=0, method="nearest")


def mean_sd(values: Sequence[float], show: Callable[[float], str]) -> str:
    """``mean ± standard deviation``; one value stands alone, and none is a dash."""
    if not len(values):
        return "-"
    deviation = f" ± {show(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return f"{show(float(np.mean(values)))}{deviation}"


def grid_scores(found: Sequence[Run], *keys: str) -> dict[tuple[Any, ...], str]:
    """Last accuracy in per cent, mean and deviation, by the values of some keys."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for run in found:
        groups.setdefault(tuple(run.config[key] for key in keys), []).append(float(run.columns["test/accuracy"][-1]))
    return {kind: mean_sd(values, lambda x: f"{100 * x:.2f}") for kind, values in groups.items()}


def percent(value: float) -> str:
    """One digit after the point, without the sign."""
    return f"{100 * value:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def made(found: Sequence[Run]) -> str:
    """How many runs, how long they took, and on what."""
    if not found:
        return "No run of this was found."
    seconds = sum(float(np.nansum(run.columns["seconds"])) for run in found)
    took = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} s"
    seeds = len({run.seed for run in found})
    machines = sorted({run.versions.get("machine", platform.machine()) for run in found})
    return f"{len(found)} runs ({seeds} seeds), {took} of rounds in one process each; {'; '.join(machines)}."
