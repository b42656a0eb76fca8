"""The federated comparison: the whole family at equal rounds and at equal bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.choose import choices, scores
from experiments.recorded import finished, made, mean_sd, percent, runs, table
from fedrac.results.report import style
from fedrac.results.report.runs import Run

TITLE = "The family in a federation"
DIVISIONS = {"IID": "iid", "Dirichlet 0.5": "0.5", "Dirichlet 0.1": "0.1"}  # how the page and the folders name them
Kind = tuple[str, str]
Runs = Mapping[str, Sequence[Run]]  # by division


def section(folder: Path, figures: Path) -> str:
    """The part of the page, and its figures."""
    parts = []
    for epochs in (1, 5):
        grids = {name: runs(folder / "grid" / str(epochs) / place) for name, place in DIVISIONS.items()}
        found = {name: tuned(runs(folder / str(epochs) / place), grids[name]) for name, place in DIVISIONS.items()}
        if any(found.values()):
            parts += _part(found, grids, epochs, figures)
    intro = (
        "Cohorts of 10 of 100 clients, rank 1, all methods from the same pre-trained model and on the "
        "same layers (biases frozen), AdamW locally. For every division and number of local epochs, a method's "
        "learning rate is the best of one grid on validation data: a fifth of the training examples, the mean of "
        "three seeds that are not used again."
    )
    return "\n\n".join([intro, *parts]) if parts else made([])


def tuned(found: Sequence[Run], grid: Sequence[Run]) -> list[Run]:
    """Finished runs with the learning rate that the grid chose: a folder may have others from an earlier choice."""
    chosen = choices(list(grid))
    return [run for run in finished(found) if run.config["local.lr"] == chosen.get(_kind(run))]


def _part(by_division: Runs, grids: Runs, epochs: int, figures: Path) -> list[str]:
    divisions = [name for name, members in by_division.items() if members]
    found = [run for name in divisions for run in by_division[name]]
    kinds = sorted({_kind(run) for run in found}, key=place)
    cells = {(k, d): [run for run in by_division[d] if _kind(run) == k] for k in kinds for d in divisions}
    _draw(cells, kinds, divisions, figures / f"federated_{epochs}")
    uploads = {k: int(next(run for run in found if _kind(run) == k).columns["upload_bytes"][0]) for k in kinds}
    budgets = {
        side: min(float(run.total("upload_bytes")[-1]) for run in found if _kind(run) == ("Fed-RAC-LoRA", side))
        for side in ("left", "right")
        if ("Fed-RAC-LoRA", side) in kinds
    }
    rounds, seeds = max(run.rounds for run in found), len({run.seed for run in found})
    return [
        f"### Local epochs: {epochs}",
        f"Accuracy on test data after {rounds} rounds, in per cent, mean and standard deviation over {seeds} seeds:",
        _table(kinds, divisions, cells, uploads, None),
        *(
            f"The same at equal bytes: after {style.show_bytes(budget)} uploaded by all clients together, which is "
            f"what Fed-RAC-LoRA ({side}) uploads in {rounds} rounds. Read off the learning curves, between evaluated "
            f"rounds linearly. A dash: the method's {rounds} rounds upload less than that.\n\n"
            + _table(kinds, divisions, cells, uploads, budget)
            for side, budget in budgets.items()
        ),
        f"![Accuracy over rounds and bytes](figures/federated_{epochs}.svg)",
        f"<details><summary>Learning rates: validation accuracy on the grid, {epochs} local epoch(s); chosen in bold"
        f"</summary>\n\n{grid_tables({d: grids[d] for d in divisions})}\n\n</details>",
        made([*found, *(run for d in divisions for run in grids[d])]),
    ]


def _kind(run: Run) -> Kind:
    return run.config["method.name"], run.config["method.side"]


def place(kind: Kind) -> tuple[int, str]:
    """Sorts methods from the paper's to full fine-tuning."""
    order = ["Fed-RAC-LoRA", "AsymmLoRA", "Fed-COLA", "FLoRA", "FedEx-LoRA", "FedAvg-LoRA", "FedAvg"]
    return order.index(kind[0]), kind[1]


def label(kind: Kind) -> str:
    """The method, and the side of its random factor where that is a choice."""
    return ", ".join(kind) if kind[0] in ("Fed-RAC-LoRA", "AsymmLoRA") else kind[0]


def at_bytes(run: Run, budget: float) -> float:
    """Accuracy where the run has uploaded ``budget`` bytes; nan if it never has."""
    known = np.isfinite(run.columns["test/accuracy"])
    uploaded = np.concatenate([[0.0], run.total("upload_bytes")[known]])
    accuracy = np.concatenate([[run.initial["test/accuracy"]], run.columns["test/accuracy"][known]])
    return float(np.interp(budget, uploaded, accuracy)) if uploaded[-1] >= budget * 0.999 else float("nan")


def _table(
    kinds: Sequence[Kind],
    divisions: Sequence[str],
    cells: dict[Any, list[Run]],
    uploads: dict[Kind, int],
    budget: float | None,
) -> str:
    rows = []
    for k in kinds:
        values = []
        for d in divisions:
            members = cells[k, d]
            found = [
                float(run.columns["test/accuracy"][-1]) if budget is None else at_bytes(run, budget) for run in members
            ]
            values.append("-" if np.isnan(found).any() else mean_sd(found, percent))
        rows.append([label(k), f"{uploads[k] // 40:,}", *values])
    return table(["method", "upload per client and round (numbers)", *divisions], rows)


def grid_tables(grids: Runs) -> str:
    """One table a division."""
    return "\n\n".join(f"{name}:\n\n{grid_table(found)}" for name, found in grids.items())


def grid_table(found: Sequence[Run]) -> str:
    """Validation accuracy by method and learning rate; those chosen in bold."""
    known, chosen = scores(list(found)), choices(list(found))
    rates = sorted({rate for _, _, rate in known})
    rows = []
    for k in sorted(chosen, key=place):
        texts = {rate: percent(known[(*k, rate)]) if (*k, rate) in known else "-" for rate in rates}
        rows.append([label(k), *(f"**{text}**" if rate == chosen[k] else text for rate, text in texts.items())])
    return table(["method", *(f"{rate:g}" for rate in rates)], rows)


def _draw(cells: dict[Any, list[Run]], kinds: Sequence[Kind], divisions: Sequence[str], path: Path) -> None:
    names = list(dict.fromkeys(name for name, _ in kinds))
    looks = dict(zip(names, style.styles(names), strict=True))
    with style.figure(3.6 * len(divisions) + 0.6, 6.6) as figure:
        panels = figure.subplots(2, len(divisions), squeeze=False, sharey=True)
        for column, division in enumerate(divisions):
            for row, name in enumerate(("round", "upload_bytes")):
                axes, totals = panels[row][column], []
                for k in kinds:
                    members = cells[k, division]
                    if not members:
                        continue
                    known = np.isfinite(members[0].columns["test/accuracy"])
                    x = members[0].columns["round"] if name == "round" else members[0].total(name)
                    values = [run.columns["test/accuracy"][known] for run in members]
                    second = k[0] in ("Fed-RAC-LoRA", "AsymmLoRA") and k[1] == "right"
                    style.band(
                        axes, x[known], values, label(k), **{**looks[k[0]], "linestyle": "--" if second else "-"}
                    )
                    totals.append(float(x[-1]))
                style.label_metric(axes, "test/accuracy", [1.0])
                style.label_progress(axes, name, totals)
                if column:
                    axes.set_ylabel("")
            panels[0][column].set_title(division)
        style.legend(figure, panels[0][0])
        style.save(figure, path)
