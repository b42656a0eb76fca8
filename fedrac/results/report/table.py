"""The results as a table: a row for every group of runs, mean and standard deviation over seeds."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrac.results.report.compare import Comparison, Group, key_name
from fedrac.results.report.style import metric_name, show_bytes, show_seconds


@dataclass(frozen=True)
class Value:
    """Of a column, over seeds.

    Attributes:
        mean: in the unit of the column: a share, bytes, seconds.
        sd: standard deviation; nan for one seed.
    """

    mean: float
    sd: float


@dataclass(frozen=True)
class Row:
    """One group of runs.

    Attributes:
        values: of the settings that tell the groups apart.
        measured: by the name of a column.
        runs: how many there are.
        remark: what is special about the group.
    """

    values: dict[str, Any]
    measured: dict[str, Value]
    runs: int
    remark: str


def rows(comparison: Comparison) -> list[Row]:
    """One for every group. Metrics are those of the last round where they were taken."""
    budget = least_upload(comparison)
    return [_row(group, comparison, budget) for group in comparison.groups]


def least_upload(comparison: Comparison) -> float | None:
    """Bytes that every group has uploaded in the end, where groups differ by more than a tenth."""
    totals = [float(run.total("upload_bytes")[-1]) for run in comparison.runs]
    return min(totals) if min(totals) > 0 and max(totals) > 1.1 * min(totals) else None


def _row(group: Group, comparison: Comparison, budget: float | None) -> Row:
    measured: dict[str, Value] = {}
    for metric in comparison.metrics():
        rounds = group.rounds(metric)
        if not len(rounds):
            continue
        measured[metric_name(metric)] = _value(group.values_at(metric, rounds)[:, -1])
        if budget is not None and metric.startswith("test/"):
            at = [_until(run, metric, budget) for run in group.runs]
            measured[f"{metric_name(metric)} at {show_bytes(budget)}"] = _value(np.array(at))
    for name, column in (("uploaded", "upload_bytes"), ("downloaded", "download_bytes"), ("time", "seconds")):
        measured[name] = _value(np.array([run.total(column)[-1] for run in group.runs]))
    return Row({key_name(k): v for k, v in group.values.items()}, measured, len(group.runs), group.remark)


def _until(run: Any, metric: str, budget: float) -> float:
    """The metric when it was last taken before more than the budget was uploaded; before round 1, if never."""
    values = run.columns[metric]
    taken = np.flatnonzero(np.isfinite(values) & (run.total("upload_bytes") <= budget))
    return float(values[taken[-1]]) if len(taken) else run.initial.get(metric, float("nan"))


def _value(values: Any) -> Value:
    return Value(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"))


def show_value(name: str, value: Value | None) -> str:
    """Mean ± standard deviation, in the unit that the name has."""
    if value is None or not np.isfinite(value.mean):
        return "—"
    if "accuracy" in name:
        texts = [f"{100 * x:.1f}" for x in (value.mean, value.sd)]
        return (f"{texts[0]} ± {texts[1]}" if np.isfinite(value.sd) else texts[0]) + " %"
    if name.endswith("loaded"):
        return show_bytes(value.mean)
    if name == "time":
        return show_seconds(value.mean)
    if not np.isfinite(value.sd):
        return f"{value.mean:.4g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value.mean) or 1))))
    return f"{value.mean:.{digits}f} ± {value.sd:.{digits}f}"


def cells(rows_: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines, ready to be read."""
    keys = list(rows_[0].values)
    measured = list(dict.fromkeys(name for row in rows_ for name in row.measured))
    remark = any(row.remark for row in rows_)
    header = [*keys, "seeds", *measured, *(["remark"] if remark else [])]
    lines = [
        [
            *(_plain(row.values[key]) for key in keys),
            str(row.runs),
            *(show_value(name, row.measured.get(name)) for name in measured),
            *([row.remark] if remark else []),
        ]
        for row in rows_
    ]
    return header, lines


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_markdown(rows_: Sequence[Row]) -> str:
    """A table of GitHub's dialect."""
    header, lines = cells(rows_)
    body = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in body)


def as_csv(rows_: Sequence[Row]) -> str:
    """Plain numbers: two columns, mean and standard deviation, for each that was measured; bytes and seconds."""
    keys = list(rows_[0].values)
    measured = list(dict.fromkeys(name for row in rows_ for name in row.measured))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "seeds", *(f"{name} {part}" for name in measured for part in ("mean", "sd")), "remark"])
    for row in rows_:
        numbers = [row.measured.get(name, Value(float("nan"), float("nan"))) for name in measured]
        flat = [f"{x:.10g}" if np.isfinite(x) else "" for value in numbers for x in (value.mean, value.sd)]
        writer.writerow([*(row.values[key] for key in keys), row.runs, *flat, row.remark])
    return text.getvalue()


def as_lines(rows_: Sequence[Row]) -> list[str]:
    """For a terminal: what distinguishes the rows, test metrics and costs."""
    header, lines = cells(rows_)
    wanted = [i for i, name in enumerate(header) if not name.startswith("training") and name != "downloaded"]
    grid = [[line[i] for i in wanted] for line in (header, *lines)]
    widths = [max(len(line[i]) for line in grid) for i in range(len(wanted))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in grid]
