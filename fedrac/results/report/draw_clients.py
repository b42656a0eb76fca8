"""The figures of a report that show clients: which labels each has, and what the model is worth to each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedrac.results.report import style
from fedrac.results.report.compare import Comparison
from fedrac.results.report.draw import Drawing, Panel, panels
from fedrac.results.report.runs import Floats, Run

_MOST_CLIENTS = 200  # columns of a map
_MOST_NAMES = 20  # of labels, on an axis
_BINS = 10
_DIVISION = ("partition.scheme", "partition.alpha", "partition.classes", "partition.shards", "partition.law")


def figures(comparison: Comparison, folder: Path) -> list[Drawing]:
    """Draws and saves both kinds, as far as the runs have recorded what they show."""
    return [*_spreads(comparison, folder), *_labels(comparison, folder)]


def _spreads(comparison: Comparison, folder: Path) -> Iterator[Drawing]:
    """Of every metric that clients tested, how many have which value."""
    for metric in sorted({name for run in comparison.runs for name in run.tested}):
        for number, panel in enumerate(panels(comparison)):
            values = [[run.tested[metric] for run in group.runs if metric in run.tested] for group in panel.groups]
            if not any(values):
                continue
            path = folder / (f"clients_by_{metric}" + (f"_{number + 1}" if panel.title else ""))
            _histogram(path, metric, panel, values)
            title = f"; {panel.title}" if panel.title else ""
            caption = f"Clients by {metric}, after the last round that they tested{title}"
            yield Drawing("Clients by what the model is worth to them", path, caption)


def _histogram(path: Path, metric: str, panel: Panel, values: Sequence[Sequence[Floats]]) -> None:
    """A line a group: the share of its clients in each of ten equal bins, mean and deviation over seeds."""
    every = np.concatenate([each for seeds in values for each in seeds])
    every = every[np.isfinite(every)]
    low, high = min([0.0, *every]), 1.0 if metric.endswith("accuracy") else max([1e-9, *every])
    edges = np.linspace(low, high, _BINS + 1)
    with style.figure() as figure:
        axes = figure.add_subplot()
        for seeds, label, look in zip(values, panel.labels, panel.styles, strict=True):
            if seeds:
                shares = [np.histogram(each, edges)[0] / len(each) for each in seeds]
                style.band(axes, (edges[1:] + edges[:-1]) / 2, shares, label, **look)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("share of clients")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        style.label_metric(axes, metric, edges[1:], "x")
        axes.set_title(panel.title)
        style.legend(figure, axes)
        style.save(figure, path)


def _labels(comparison: Comparison, folder: Path) -> Iterator[Drawing]:
    """Who has which labels: one figure for every division of the data, with a map for each seed."""
    shown: dict[str, dict[int, Run]] = {}
    for run in sorted(comparison.runs, key=lambda run: run.seed):
        division = str({k: v for k, v in run.config.items() if k.startswith(("partition.", "data."))})
        if run.labels is not None:
            shown.setdefault(division, {}).setdefault(run.seed, run)
    for number, seeds in enumerate(shown.values()):
        path, runs = folder / f"clients_{number + 1}", list(seeds.values())
        _maps(path, runs)
        scheme = ", ".join(f"{k.removeprefix('partition.')} {v}" for k, v in runs[0].config.items() if k in _DIVISION)
        most = max(len(run.labels) for run in runs if run.labels is not None)
        first = f"; the first {_MOST_CLIENTS} of {most:,} clients" if most > _MOST_CLIENTS else ""
        caption = f"Training examples of each label on each client: {scheme}; seed {', '.join(map(str, seeds))}{first}"
        yield Drawing("Who has which labels", path, caption, wide=True)


def _maps(path: Path, runs: Sequence[Run]) -> None:
    counts = [run.labels[:_MOST_CLIENTS].T for run in runs if run.labels is not None]
    most = max(int(each.max()) for each in counts)
    with style.figure(9.6, len(runs) * (1.5 + 0.17 * min(len(counts[0]), 20))) as figure:
        axes = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
        for place, run, each in zip(axes, runs, counts, strict=True):
            image = place.imshow(each, aspect="auto", cmap="Blues", interpolation="nearest", origin="lower",
                                 vmin=0, vmax=most)  # fmt: skip
            place.grid(False)
            place.set_title(f"seed {run.seed}", loc="left")
            _name_labels(place, run.config.get("data.classes"), len(each))
            place.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes[-1].set_xlabel("client")
        figure.colorbar(image, ax=list(axes), label="examples", pad=0.01)
        style.save(figure, path)


def _name_labels(axes: Axes, names: Any, count: int) -> None:
    axes.set_ylabel("label")
    if isinstance(names, list) and len(names) == count <= _MOST_NAMES:
        axes.set_yticks(range(count), list(map(str, names)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(min(10, count), integer=True))
