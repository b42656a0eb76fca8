"""The figures of a report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrac.results.report import style
from fedrac.results.report.compare import Comparison, Group, is_spread, key_name, show

_PROGRESS = ("round", "upload_bytes", "seconds")
_MOST_LINES = 8  # in one figure
_LEAST_POINTS = 3  # of a setting, to be drawn as an axis


_Line = tuple[Group, str, dict[str, Any]]  # with its label and style


@dataclass(frozen=True)
class Drawing:
    """A figure that was saved.

    Attributes:
        section: the heading that it belongs under.
        path: without suffix; there are a ``.svg`` and a ``.png``.
        caption: what it shows, in words.
        wide: it has more in it than fits beside another one.
    """

    section: str
    path: Path
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Panel:
    """Groups that share a figure.

    Attributes:
        title: what they have in common and other panels do not.
        groups, labels, styles: one an entry for each line.
    """

    title: str
    groups: Sequence[Group]
    labels: Sequence[str]
    styles: Sequence[dict[str, Any]]


def curves(comparison: Comparison, folder: Path) -> list[Drawing]:
    """Draws and saves every metric against rounds, bytes, time and settings."""
    return [*_settings(comparison, folder), *_curves(comparison, folder)]


def panels(comparison: Comparison) -> list[Panel]:
    """All groups in one panel where lines are few; else a panel for each combination of all keys but one."""
    groups, keys = comparison.groups, comparison.keys
    if len(groups) <= _MOST_LINES or len(keys) < 2:
        values = [group.values[keys[0]] if len(keys) == 1 else group.label for group in groups]
        named = _line_labels(keys, values) if len(keys) == 1 else [group.label for group in groups]
        looks = _group_styles(comparison) if len(keys) > 1 else style.styles(values)
        return [Panel("", groups, named, style.marked(looks))]
    colour = "method.name" if "method.name" in keys else max(keys, key=lambda k: len(_values(groups, k)))
    values = _values(groups, colour)
    line = dict(zip(map(str, values), style.marked(style.styles(values)), strict=True))
    sets: dict[str, list[Group]] = {}
    for group in groups:
        title = ", ".join(show(key, value) for key, value in group.values.items() if key != colour)
        sets.setdefault(title, []).append(group)
    return [
        Panel(
            title,
            members,
            _line_labels([colour], [group.values[colour] for group in members]),
            [line[str(group.values[colour])] for group in members],
        )
        for title, members in sets.items()
    ]


def _group_styles(comparison: Comparison) -> list[dict[str, Any]]:
    """Colour by the first key, dashes by what else there is."""
    first = comparison.keys[0]
    values = _values(comparison.groups, first)
    base = dict(zip(map(str, values), style.styles(values), strict=True))
    rest = [[group.values[key] for key in comparison.keys[1:]] for group in comparison.groups]
    kinds = list(dict.fromkeys(map(str, rest)))
    if len(values) * len(kinds) > len(style.COLOURS) * len(style.DASHES) or len(kinds) > len(style.DASHES):
        return [style.style(index) for index in range(len(comparison.groups))]
    return [
        {**base[str(group.values[first])], "linestyle": style.DASHES[kinds.index(str(other))]}
        for group, other in zip(comparison.groups, rest, strict=True)
    ]


def _values(groups: Sequence[Group], key: str) -> list[Any]:
    return list({str(group.values[key]): group.values[key] for group in groups}.values())


def _line_labels(keys: Sequence[str], values: Sequence[Any]) -> list[str]:
    return [show(keys[0], value) for value in values]


def _curves(comparison: Comparison, folder: Path) -> Iterator[Drawing]:
    for metric in (name for name in comparison.metrics() if not is_spread(name) or _is_drawn(name)):
        for number, panel in enumerate(panels(comparison)):
            used = [entry for entry in zip(panel.groups, panel.labels, panel.styles, strict=True)
                    if len(entry[0].rounds(metric))]  # fmt: skip
            if not used:
                continue
            for column in _progress(used):
                name = f"{metric.replace('/', '_')}_by_{column}" + (f"_{number + 1}" if panel.title else "")
                _curve(folder / name, metric, column, panel.title, used)
                section = style.metric_name(metric).capitalize()
                caption = f"{section} over {style.progress_name(column)}" + (f"; {panel.title}" if panel.title else "")
                yield Drawing(section, folder / name, caption)


def _progress(lines: Sequence[_Line]) -> list[str]:
    simulated = all("simulated_seconds" in run.columns for group, _, _ in lines for run in group.runs)
    return [*_PROGRESS, *(["simulated_seconds"] if simulated else [])]


def _is_drawn(metric: str) -> bool:
    """Of how clients spread, curves show the worst tenth, and not by their loss."""
    return metric.startswith("clients/worst10_") and not metric.endswith("loss")


def _curve(path: Path, metric: str, column: str, title: str, lines: Sequence[_Line]) -> None:
    with style.figure() as figure:
        axes = figure.add_subplot()
        totals = [float(group.values_at(column, group.rounds(metric)[-1:]).mean()) for group, _, _ in lines]
        start = not style.is_wide(totals)  # a logarithmic axis has no place for zero
        data = [_line(group, metric, column, start) for group, _, _ in lines]
        whole = [_line(group, metric, column, True)[1].ravel() for group, _, _ in lines]
        style.label_metric(axes, metric, np.concatenate(whole))  # the same scale over rounds, bytes and time
        for (x, values), (_, label, look) in zip(data, lines, strict=True):
            style.band(axes, x, values, label, **look)
        style.label_progress(axes, column, totals)
        axes.set_title(title)
        style.legend(figure, axes)
        style.save(figure, path)


def _line(group: Group, metric: str, column: str, start: bool) -> tuple[Any, Any]:
    """x (points,), the mean over seeds; y (seeds, points). With ``start`` from round 0, where that was tested."""
    rounds = group.rounds(metric)
    x, y = group.values_at(column, rounds).mean(axis=0), group.values_at(metric, rounds)
    initial = group.initial(metric)
    if start and np.isfinite(initial).all():
        x, y = np.concatenate([[0.0], x]), np.column_stack([initial, y])
    return x, y


def _settings(comparison: Comparison, folder: Path) -> Iterator[Drawing]:
    """The last value of every test metric against each setting that has several numbers."""
    for key in comparison.keys:
        values = _values(comparison.groups, key)
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) < _LEAST_POINTS:
            continue
        for metric in (name for name in comparison.metrics() if name.startswith("test/")):
            path = folder / f"{metric.replace('/', '_')}_by_{key}"
            _against(path, key, metric, comparison.groups)
            caption = f"{style.metric_name(metric).capitalize()} after the last round against {key_name(key)}"
            yield Drawing(f"Against {key_name(key)}", path, caption)


def _against(path: Path, key: str, metric: str, groups: Sequence[Group]) -> None:
    lines: dict[str, list[Group]] = {}
    for group in groups:
        if len(group.rounds(metric)) and isinstance(group.values[key], int | float):
            label = ", ".join(show(k, value) for k, value in group.values.items() if k != key)
            lines.setdefault(label, []).append(group)
    with style.figure() as figure:
        axes = figure.add_subplot()
        last = {id(group): group.values_at(metric, group.rounds(metric)[-1:])[:, 0] for group in groups
                if len(group.rounds(metric))}  # fmt: skip
        style.label_metric(axes, metric, np.concatenate(list(last.values())))
        first_names = [label.split(", ")[0] for label in lines]
        looks = style.styles(list(lines)) if len({*first_names}) < len(lines) else style.styles(first_names)
        for (label, members), look in zip(lines.items(), style.marked(looks), strict=True):
            x = [float(group.values[key]) for group in members]
            y = [float(last[id(group)].mean()) for group in members]
            error = [float(last[id(group)].std(ddof=1)) if len(last[id(group)]) > 1 else 0.0 for group in members]
            axes.errorbar(x, y, yerr=error if any(error) else None, capsize=3, label=label, **look)
        style.label_setting(axes, key_name(key), sorted({float(g.values[key]) for m in lines.values() for g in m}))
        style.legend(figure, axes)
        style.save(figure, path)
