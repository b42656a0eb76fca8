"""How figures look: colours that colour-blind readers tell apart, units, files. Without pyplot's global state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike

from fedrac.results.report.compare import METHODS

# Okabe and Ito, Color Universal Design (2008); in the place of yellow, too light on white, Tol's wine and olive.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "p")  # one more than colours: equal pairs come late
INK, GRID, PAPER = "#1a1a1a", "#d9d9d9", "#ffffff"  # what a page with a dark background shows in other colours
_MOST_MARKERS = 20  # on a line

_RC: Any = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "svg.hashsalt": "fedrac",
    "svg.fonttype": "none",  # text stays text: it can be searched, and it is smaller
    "savefig.facecolor": PAPER,
}
_AXES = {
    "round": "round",
    "upload_bytes": "uploaded by all clients",
    "download_bytes": "downloaded",
    "seconds": "time after the first round",
    "simulated_seconds": "simulated time",
}
_METRICS = {
    "test/accuracy": "test accuracy",
    "test/loss": "test loss",
    "test/mse": "test mean squared error",
    "train/loss": "training loss",
}


def style(index: int) -> dict[str, Any]:
    """Colour and dashes of the ``index``-th line."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def styles(labels: Sequence[Any]) -> list[dict[str, Any]]:
    """One for each label: methods have their own, numbers go from dark to light, all else in order."""
    if len(labels) > 2 and all(isinstance(label, int | float) and not isinstance(label, bool) for label in labels):
        map_ = matplotlib.colormaps["viridis"]
        dashes = cycle(DASHES)
        return [{"color": map_(x), "linestyle": next(dashes)} for x in np.linspace(0, 0.82, len(labels))]
    named = [METHODS.index(label) if label in METHODS else None for label in labels]
    free = iter([index for index in range(len(labels) + len(METHODS)) if index not in named])
    return [style(next(free) if index is None else index) for index in named]


def marked(looks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same looks, each with a marker of its own as far as there are enough."""
    return [{**look, "marker": MARKERS[index % len(MARKERS)]} for index, look in enumerate(looks)]


def every(points: int) -> int:
    """Of how many points one has its marker, so that markers do not hide a line of many."""
    return -(-points // _MOST_MARKERS)


@contextmanager
def figure(width: float = 4.8, height: float = 3.5) -> Iterator[Figure]:
    """A new figure, in inches, with this style."""
    with matplotlib.rc_context(_RC):
        yield Figure(figsize=(width, height), layout="constrained")


def save(figure_: Figure, path: Path) -> None:
    """As ``path.svg`` and ``path.png``."""
    figure_.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})
    figure_.savefig(path.with_name(f"{path.name}.png"), dpi=200)


def band(axes: Axes, x: ArrayLike, values: ArrayLike, label: str, **line: Any) -> None:
    """Mean over seeds, and a band of one standard deviation on either side.

    Args:
        x: (points,).
        values: (seeds, points).
    """
    rows = np.atleast_2d(np.asarray(values, dtype=float))
    mean = rows.mean(axis=0)
    axes.plot(x, mean, label=label, markevery=every(len(mean)), **line)
    if len(rows) > 1:
        deviation = rows.std(axis=0, ddof=1)
        low = mean - deviation
        if axes.get_yscale() == "log":  # where the band would reach below zero it ends at the least value
            low = np.maximum(low, rows.min(axis=0))
        axes.fill_between(np.asarray(x), low, mean + deviation, color=line.get("color"), alpha=0.16, linewidth=0)


def metric_name(metric: str) -> str:
    """As in the literature."""
    part, _, name = metric.partition("/")
    if part == "clients":
        worst = name.removeprefix("worst10_")
        return f"clients' {name}".replace("_", " ") if worst == name else f"worst-10 % {worst}"
    return _METRICS.get(metric, metric.replace("/", " ").replace("_", " "))


def label_metric(axes: Axes, metric: str, values: ArrayLike, which: str = "y") -> None:
    """Names the axis of a metric: percent for an accuracy, logarithmic for a loss that falls far."""
    axis = getattr(axes, f"{which}axis")
    axis.set_label_text(metric_name(metric))
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if metric.endswith("accuracy"):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    elif len(finite) and finite.min() > 0 and finite.max() / finite.min() > 20:
        _logarithmic(axes, which)


def label_progress(axes: Axes, column: str, totals: Sequence[float]) -> None:
    """Names the axis of rounds, bytes or seconds.

    Args:
        column: ``round``, ``upload_bytes``, ``download_bytes``, ``seconds`` or ``simulated_seconds``.
        totals: where each line ends; where they lie far apart the axis is logarithmic.
    """
    axes.set_xlabel(_AXES[column])
    if is_wide(totals):
        _logarithmic(axes, "x")
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=column == "round"))
    if column.endswith("bytes"):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_bytes(value)))
    elif column.endswith("seconds"):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_seconds(value)))


def is_wide(totals: Sequence[float]) -> bool:
    """Whether lines end so far apart that a linear axis would hide some."""
    positive = [total for total in totals if total > 0]
    return bool(positive) and max(positive) / min(positive) > 10


def _logarithmic(axes: Axes, which: str) -> None:
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if which == "y" else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def show_bytes(count: float) -> str:
    """In the decimal units of networks."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"


def show_seconds(seconds: float) -> str:
    """In hours and minutes where there are many."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def legend(figure_: Figure, axes: Axes, title: str | None = None) -> None:
    """Below the axes, so that it hides no line."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) < 2:
        return
    columns = max(1, min(4, int(figure_.get_figwidth() * 11 // (max(map(len, labels)) + 6))))
    figure_.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, title_fontsize=10)


def progress_name(column: str) -> str:
    """What ``round``, ``upload_bytes`` or ``seconds`` is, in words."""
    return {
        "round": "rounds",
        "upload_bytes": "bytes uploaded",
        "seconds": "wall time",
        "simulated_seconds": "simulated time",
    }.get(column, column)


def label_setting(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Names the axis of a setting; logarithmic where its values are spread like powers."""
    axes.set_xlabel(name)
    if values[0] > 0 and values[-1] / values[0] >= 10:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
    if len(values) <= 10:
        axes.set_xticks(values, [f"{value:g}" for value in values])
