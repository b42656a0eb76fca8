"""Accuracy against bytes on the full MNIST: two-sided sketches, the left sketch, FedAvg; whole numbers and few bits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.recorded import finished, grouped, made, mean_sd, runs, table
from fedrac.results.report import style
from fedrac.results.report.runs import Run

TITLE = "Accuracy against bytes"
DIVISIONS = {"IID": "iid", "Dirichlet 0.5": "0.5", "Dirichlet 0.1": "0.1"}
LEVEL = 0.975
Kind = tuple[str, int | None]  # name of the method, bits of an uploaded number


def section(folder: Path, figures: Path) -> str:
    """The part of the page, and its figure."""
    found = {name: finished(runs(folder / place)) for name, place in DIVISIONS.items()}
    every = [run for members in found.values() for run in members]
    if not every:
        return made([])
    _draw({name: members for name, members in found.items() if members}, figures / "communication")
    tables = [f"{name}:\n\n{_table(members)}" for name, members in found.items() if members]
    grids = [_grid(finished(runs(path))) for path in sorted((folder / "grid").glob("*"))]
    return "\n\n".join([_INTRO, *tables, "![Accuracy over bytes](figures/communication.svg)", *grids, made(every)])


_INTRO = f"""The paper's transfer made federated, on the full MNIST: an MLP 784-64-64-5, pre-trained on the digits 0-4, is
adapted to 5-9 by 100 clients, 10 a round; biases are frozen. AdamW, one local epoch, a cosine over rounds. Each method has
the rounds and the learning rate of `conf/rates`, chosen on validation data with another seed at Dirichlet 0.5. *To
{100 * LEVEL:.1f} %*: what a client has uploaded if it took part in all rounds until the mean of three evaluations in a row,
five rounds apart, first reaches that level; a dash where a run does not."""  # noqa: E501


def reached(run: Run, level: float = LEVEL) -> float:
    """The round from which the mean of three evaluations is at least ``level``; nan if there is none."""
    values = run.columns["test/accuracy"]
    known = np.isfinite(values)
    accuracy, rounds = values[known], run.columns["round"][known]
    means = [float(np.mean(accuracy[at : at + 3])) for at in range(len(accuracy) - 2)]
    return next((float(rounds[at]) for at, mean in enumerate(means) if mean >= level), float("nan"))


def _bytes_a_round(run: Run) -> float:
    return float(run.columns["upload_bytes"][0]) / int(run.config["cohort.size"])


def _kinds(found: Sequence[Run]) -> dict[Kind, list[Run]]:
    return {(str(name), bits): members for (name, bits), members in grouped_by_bits(found).items()}


def grouped_by_bits(found: Sequence[Run]) -> dict[tuple[str, int | None], list[Run]]:
    """By method and bits, whole numbers first."""
    kinds: dict[tuple[str, int | None], list[Run]] = {}
    for run in sorted(found, key=lambda run: (run.config["method.name"], -(run.config["upload.bits"] or 32))):
        kinds.setdefault((run.config["method.name"], run.config["upload.bits"]), []).append(run)
    return kinds


def _table(found: Sequence[Run]) -> str:
    kinds, rows = _kinds(found), []
    for (name, bits), members in kinds.items():
        numbers = _bytes_a_round(kinds[name, None][0]) / 4 if (name, None) in kinds else float("nan")
        rounds = np.array([reached(run) for run in members])
        up = _bytes_a_round(members[0])
        rows.append(
            [
                f"{name}{f', {bits} bit' + ('s' if bits > 1 else '') if bits else ''}",
                "-" if np.isnan(numbers) else f"{numbers:,.0f}",
                _until(rounds * numbers / 1e3, "k"),
                _until(rounds * up / 1e3, "kB"),
                mean_sd([float(run.columns["test/accuracy"][-1]) for run in members], lambda x: f"{100 * x:.2f}"),
                str(len(members)),
            ]
        )
    head = ["method", "numbers a round", f"numbers to {100 * LEVEL:.1f} %", f"bytes to {100 * LEVEL:.1f} %"]
    return table([*head, "final accuracy (%)", "seeds"], rows)


def _until(values: Sequence[float] | np.ndarray, unit: str) -> str:
    """The mean over the runs that get there, and how many do where it is not all."""
    there = np.asarray(values)[np.isfinite(values)]
    if not len(there):
        return "-"
    some = f" ({len(there)} of {len(values)})" if len(there) < len(values) else ""
    return f"{there.mean():,.3g} {unit}{some}" if there.mean() < 1000 else f"{there.mean():,.0f} {unit}{some}"


def _grid(found: Sequence[Run]) -> str:
    rates = grouped(found, "method.name", "local.lr")
    shown = [f"{rate:g}: {100 * members[0].columns['test/accuracy'][-1]:.2f}" for (_, rate), members in rates.items()]
    return f"Validation accuracy by learning rate, {next(iter(rates))[0]}: {', '.join(shown)}." if rates else ""


def _draw(found: dict[str, Sequence[Run]], path: Path) -> None:
    kinds = list(dict.fromkeys(kind for members in found.values() for kind in _kinds(members)))
    names = list(dict.fromkeys(name for name, _ in kinds))
    looks = dict(zip(names, style.styles(names), strict=True))
    with style.figure(3.6 * len(found) + 0.6, 3.8) as figure:
        panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        for axes, (division, members) in zip(panels, found.items(), strict=True):
            for (name, bits), group in _kinds(members).items():
                known = np.isfinite(group[0].columns["test/accuracy"])
                x = group[0].total("upload_bytes")[known] / int(group[0].config["cohort.size"])
                dash = {None: "-", 4: "--", 1: ":"}.get(bits, "-.")
                label = name if bits is None else f"{name}, {bits} bit"
                values = [run.columns["test/accuracy"][known] for run in group]
                style.band(axes, x, values, label, **{**looks[name], "linestyle": dash})
            axes.set(title=division, xscale="log", xlabel="uploaded by a client (bytes)", ylim=(0.85, 0.99))
        panels[0].set_ylabel("test accuracy")
        style.legend(figure, panels[0])
        style.save(figure, path)
