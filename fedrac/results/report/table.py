"""The results as a table: a row for every group of runs, mean and standard deviation over seeds."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedrac.data.metrics import is_lower_better
from fedrac.protocol.client_evaluation import spread
from fedrac.results.report.compare import Comparison, Group, is_spread, key_name
from fedrac.results.report.runs import SIMULATED
from fedrac.results.report.style import metric_name, show_bytes, show_seconds

SPREAD = {"mean": "mean", "worst10": "worst 10 %", "sd": "standard deviation"}  # of clients, and what they are called


Unit = Literal["number", "share", "bytes", "seconds", "count"]


@dataclass(frozen=True)
class Value:
    """Of a column, over seeds.

    Attributes:
        mean, sd: in the unit; the standard deviation is nan for one seed.
        unit: how it is written.
    """

    mean: float
    sd: float
    unit: Unit = "number"


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
        if not len(rounds) or is_spread(metric):
            continue
        measured[metric_name(metric)] = _value(group.values_at(metric, rounds)[:, -1], _unit(metric))
        if budget is not None and metric.startswith("test/"):
            at = [_until(run, metric, budget) for run in group.runs]
            measured[f"{metric_name(metric)} at {show_bytes(budget)}"] = _value(at, _unit(metric))
    for name, column in (("uploaded", "upload_bytes"), ("downloaded", "download_bytes")):
        measured[name] = _value([run.total(column)[-1] for run in group.runs], "bytes")
    if min(run.rounds for run in group.runs) > 1:  # time begins after the first round
        measured["time"] = _value([run.total("seconds")[-1] for run in group.runs], "seconds")
    if all(name in run.columns for run in group.runs for name in SIMULATED):
        measured["simulated time"] = _value([run.total("simulated_seconds")[-1] for run in group.runs], "seconds")
        measured["stragglers"] = _value([run.total("stragglers")[-1] for run in group.runs], "count")
    return _of(group, measured)


def best_rows(comparison: Comparison) -> list[Row]:
    """One for every group: every test metric in the round in which it was best, which each run has for itself."""
    names = [name for name in comparison.metrics() if name.startswith("test/")]
    return [_of(group, _best(group, names)) for group in comparison.groups] if names else []


def _best(group: Group, names: Sequence[str]) -> dict[str, Value]:
    measured: dict[str, Value] = {}
    for metric in (name for name in names if len(group.rounds(name))):
        choose = np.nanargmin if is_lower_better(metric) else np.nanargmax
        places = [int(choose(run.columns[metric])) for run in group.runs]
        best = f"best {metric_name(metric)}"
        for name, column, unit in ((best, metric, _unit(metric)), (f"round of {best}", "round", "count")):
            found = [run.columns[column][place] for run, place in zip(group.runs, places, strict=True)]
            measured[name] = _value(found, unit)
    return measured


def client_rows(comparison: Comparison) -> list[Row]:
    """One for every group whose clients tested the model: how far they lie apart after the last round that they did."""
    return [_of(group, _spread(group)) for group in comparison.groups if all(run.tested for run in group.runs)]


def _spread(group: Group) -> dict[str, Value]:
    measured = {"clients": _value([len(next(iter(run.tested.values()))) for run in group.runs], "count")}
    for metric in sorted(set.intersection(*(set(run.tested) for run in group.runs))):
        found = [spread(metric, run.tested[metric]) for run in group.runs]
        for part, name in SPREAD.items():
            measured[f"{metric}: {name}"] = _value([each[part] for each in found], _unit(metric))
    return measured


def _of(group: Group, measured: dict[str, Value]) -> Row:
    return Row({key_name(k): v for k, v in group.values.items()}, measured, len(group.runs), group.remark)


def _until(run: Any, metric: str, budget: float) -> float:
    """The metric when it was last taken before more than the budget was uploaded; nan, if that was before round 1."""
    values = run.columns[metric]
    taken = np.flatnonzero(np.isfinite(values) & (run.total("upload_bytes") <= budget))
    return float(values[taken[-1]]) if len(taken) else float("nan")


def _value(values: Any, unit: Unit) -> Value:
    return Value(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"), unit)


def _unit(metric: str) -> Unit:
    return "share" if metric.endswith("accuracy") else "number"


def show_value(value: Value | None) -> str:
    """Mean ± standard deviation, in the unit."""
    if value is None or not np.isfinite(value.mean):
        return "—"
    mean, sd, several = value.mean, value.sd, np.isfinite(value.sd)
    if value.unit == "share":
        return f"{100 * mean:.1f} ± {100 * sd:.1f} %" if several else f"{100 * mean:.1f} %"
    if value.unit == "bytes":
        return show_bytes(mean)
    if value.unit == "seconds":
        return show_seconds(mean)
    if value.unit == "count":
        return f"{mean:.0f} ± {sd:.0f}" if several and sd else f"{mean:.0f}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(mean) or 1))))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if several else f"{mean:.4g}"


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
            *(show_value(row.measured.get(name)) for name in measured),
            *([row.remark] if remark else []),
        ]
        for row in rows_
    ]
    return header, lines


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's dialect."""
    body = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in body)


def as_latex(header: Sequence[str], lines: Sequence[Sequence[str]], keys: int) -> str:
    """A ``tabular`` with the rules of the package booktabs; ``keys``: how many columns, from the left, hold words."""
    columns = "l" * keys + "r" * (len(header) - keys)
    rows_ = [" & ".join(map(_latex, line)) + r" \\" for line in (header, *lines)]
    body = [rows_[0], r"\midrule", *rows_[1:]]
    text = "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])
    return text + "\n"


_LATEX = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "—": "---", "…": r"\ldots{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


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
