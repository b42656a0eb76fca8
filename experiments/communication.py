"""Accuracy against bytes on the full MNIST: two-sided sketches, the left sketch, FedAvg; whole numbers and few bits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.recorded import Floats, finished, grid_scores, made, mean_sd, runs, table
from fedrac.results.report import style
from fedrac.results.report.runs import Run

TITLE = "Accuracy against bytes"
DIVISIONS = {"IID": "iid", "Dirichlet 0.5": "0.5", "Dirichlet 0.1": "0.1"}
LEVEL = 0.975
_LAST = {"test/accuracy": "", "last/accuracy": ", last round's model"}  # of a run that predicts with a mean of rounds
_DRAWN = ("Fed-RAC-LoRA", "FedAvg", "FedAvg with every help", "Two-sided")


@dataclass(frozen=True)
class Kind:
    """What a row of a table is of.

    Attributes:
        method: its name.
        bits: of an uploaded number; None: whole ones.
        metric: what is read of its runs.
    """

    method: str
    bits: int | None
    metric: str

    @property
    def label(self) -> str:
        """How it is called."""
        bits = f", {self.bits} bit{'s' if self.bits > 1 else ''}" if self.bits else ""
        return f"{self.method}{bits}{_LAST[self.metric]}"


def section(folder: Path, figures: Path) -> str:
    """The part of the page, and its figure."""
    found = {name: finished(runs(folder / place)) for name, place in DIVISIONS.items()}
    every = [run for members in found.values() for run in members]
    if not every:
        return made([])
    _draw({name: members for name, members in found.items() if members}, figures / "communication")
    tables = [f"{name}:\n\n{_table(members)}\n\n{_ratios(members)}" for name, members in found.items() if members]
    grids = [_grid(finished(runs(path))) for path in sorted((folder / "grid").glob("*"))]
    return "\n\n".join([_INTRO, *tables, "![Accuracy over bytes](figures/communication.svg)", *grids, made(every)])


_INTRO = f"""The paper's transfer made federated, on the full MNIST: an MLP 784-64-64-5, pre-trained on the digits 0-4,
is adapted to 5-9 by 100 clients, 10 a round; biases are frozen. AdamW, a cosine over rounds. *FedAvg with every help*:
with all that the two-sided sketch has, two local epochs, logit adjustment, a server step of 1.5 and the mean of the
rounds (`server.average`). *Fed-RAC-LoRA at rank 4* has `sketch.law=haar`. Learning rate and batch size of each method
were chosen from eight trials on validation data at Dirichlet 0.5 and 0.1 together, with two seeds that are not used
again; where larger batches came within a tenth of a point of the best, they were taken. *To {100 * LEVEL:.1f} %*: what
a client has uploaded if it took part in all rounds until the mean of three evaluations in a row, five rounds apart,
first reaches that level: up to the first of the three. A dash where a run does not."""


def reached(run: Run, metric: str = "test/accuracy", level: float = LEVEL, window: int = 3) -> float:
    """The round from which the mean of ``window`` evaluations is at least ``level``; nan if there is none."""
    values = run.columns[metric]
    known = np.isfinite(values)
    accuracy, rounds = values[known], run.columns["round"][known]
    means = [float(np.mean(accuracy[at : at + window])) for at in range(len(accuracy) - window + 1)]
    return next((float(rounds[at]) for at, mean in enumerate(means) if mean >= level), float("nan"))


def _bytes_a_round(run: Run) -> float:
    return float(run.columns["upload_bytes"][0]) / int(run.config["cohort.size"])


def _kinds(found: Sequence[Run]) -> dict[Kind, list[Run]]:
    """By method and bits, whole numbers first; the last round's model beside a mean of rounds."""
    kinds: dict[Kind, list[Run]] = {}
    for run in sorted(found, key=lambda run: (run.config["method.name"], -(run.config["upload.bits"] or 32), run.seed)):
        for metric in _LAST if "last/accuracy" in run.columns else ("test/accuracy",):
            kind = Kind(str(run.config["method.name"]), run.config["upload.bits"], metric)
            kinds.setdefault(kind, []).append(run)
    return kinds


def _numbers(kinds: dict[Kind, list[Run]], method: str) -> float:
    """That a client uploads in a round; nan where no run uploads whole ones."""
    whole = kinds.get(Kind(method, None, "test/accuracy"))
    return _bytes_a_round(whole[0]) / 4 if whole else float("nan")


def _table(found: Sequence[Run]) -> str:
    kinds, rows = _kinds(found), []
    for kind, members in kinds.items():
        numbers = _numbers(kinds, kind.method)
        rounds = np.array([reached(run, kind.metric) for run in members])
        rows.append(
            [
                kind.label,
                "-" if np.isnan(numbers) else f"{numbers:,.0f}",
                _until(rounds * numbers / 1e3, "k"),
                _until(rounds * _bytes_a_round(members[0]) / 1e3, "kB"),
                mean_sd([float(run.columns[kind.metric][-1]) for run in members], lambda x: f"{100 * x:.2f}"),
                str(len(members)),
            ]
        )
    head = ["method", "numbers a round", f"numbers to {100 * LEVEL:.1f} %", f"bytes to {100 * LEVEL:.1f} %"]
    return table([*head, "final accuracy (%)", "seeds"], rows)


def _until(values: Sequence[float] | Floats, unit: str) -> str:
    """The mean over the runs that get there, and how many do where it is not all."""
    there = np.asarray(values)[np.isfinite(values)]
    if not len(there):
        return "-"
    some = f" ({len(there)} of {len(values)})" if len(there) < len(values) else ""
    return f"{there.mean():,.3g} {unit}{some}" if there.mean() < 1000 else f"{there.mean():,.0f} {unit}{some}"


def _ratios(found: Sequence[Run]) -> str:
    """How much more FedAvg uploads to the level than the two-sided sketch, where all seeds of both get there."""
    kinds, numbers, size = _kinds(found), dict[Kind, float](), dict[Kind, float]()
    for kind, members in kinds.items():
        rounds = float(np.mean([reached(run, kind.metric) for run in members]))
        if np.isfinite(rounds):
            numbers[kind] = rounds * _numbers(kinds, kind.method)
            size[kind] = rounds * _bytes_a_round(members[0])
    said = [
        f"{what} to {100 * LEVEL:.1f} %, {one} / {other}: {a / b:.0f}"
        for what, values in (("numbers", numbers), ("bytes", size))
        for one, other, a, b in _pairs(values)
    ]
    said = list(dict.fromkeys(said))  # whole numbers may be the best ones of any bits
    return "; ".join(said) + "." if said else "Not all seeds of both reach the level, so there is no ratio."


def _pairs(values: dict[Kind, float]) -> Iterator[tuple[str, str, float, float]]:
    """FedAvg and the best of all that is FedAvg, beside the best two-sided ones; whole numbers, then any bits."""
    for whole in (True, False):
        mine = {k: v for k, v in values.items() if k.method == "Two-sided" and (k.bits is None or not whole)}
        theirs = {k: v for k, v in values.items() if k.method.startswith("FedAvg") and (k.bits is None or not whole)}
        if mine and theirs:
            best, plain = min(mine, key=mine.__getitem__), Kind("FedAvg", None, "test/accuracy")
            least = min(theirs, key=theirs.__getitem__)
            for kind in dict.fromkeys([plain, least] if plain in values else [least]):
                yield kind.label, best.label, values[kind], mine[best]


def _grid(found: Sequence[Run]) -> str:
    scores = grid_scores(found, "method.name", "local.batch_size", "local.lr")
    shown = [f"batches of {size}, rate {rate:g}: {score}" for (_, size, rate), score in scores.items()]
    return f"Validation accuracy, {next(iter(scores))[0]}: {'; '.join(shown)}." if scores else ""


def _draw(found: dict[str, Sequence[Run]], path: Path) -> None:
    looks = dict(zip(_DRAWN, style.styles(list(_DRAWN)), strict=True))
    with style.figure(3.6 * len(found) + 0.6, 3.8) as figure:
        panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        for axes, (division, members) in zip(panels, found.items(), strict=True):
            for kind, group in _kinds(members).items():
                dash = {None: "-", 4: "--", 1: ":"}.get(kind.bits)
                if kind.method not in _DRAWN or kind.metric != "test/accuracy" or dash is None:
                    continue
                known = np.isfinite(group[0].columns[kind.metric])
                x = group[0].total("upload_bytes")[known] / int(group[0].config["cohort.size"])
                values = [run.columns[kind.metric][known] for run in group]
                style.band(axes, x, values, kind.label, **{**looks[kind.method], "linestyle": dash})
            axes.set(title=division, xscale="log", xlabel="uploaded by a client (bytes)", ylim=(0.85, 0.99))
        panels[0].set_ylabel("test accuracy")
        style.legend(figure, max(panels, key=lambda axes: len(axes.lines)))
        style.save(figure, path)
