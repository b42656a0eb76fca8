"""Movie reviews with as few numbers as possible: two-sided sketches beside FedAvg-LoRA at low ranks."""

from collections.abc import Sequence

import numpy as np

from experiments.recorded import grid_scores, mean_sd, percent, table
from fedrac.results.report import style
from fedrac.results.report.runs import Run

_LESS = 0.005  # than the best of FedAvg-LoRA: the level that is asked for
_OTHER = "FedAvg-LoRA"
Kind = tuple[str, int, int, int, int]  # name, rank, columns (0: none), bits (32: whole numbers), rounds


def part(found: Sequence[Run], grid: Sequence[Run]) -> str:
    """What is said of it; nothing where there are no runs."""
    kinds = _kinds(found)
    others = [members for kind, members in kinds.items() if (kind[0], kind[3]) == (_OTHER, 32)]
    finals = [_curve(members)[1][-1] for members in others]
    if not finals:
        return ""
    level = max(finals) - _LESS
    trials = grid_scores(grid, "method.name", "rank", "adapt.columns", "local.lr")
    rates = [f"{_label((name, rank, k or 0, 32, 0))}, {lr:g}: {score}" for (name, rank, k, lr), score in trials.items()]
    return (
        "Two-sided sketches, with R from the layers' inputs on plot summaries (`python -m experiments.plots`), which "
        f"no client has, beside FedAvg-LoRA at low ranks. *To {percent(level)} %*, half a point below the best of "
        "FedAvg-LoRA: what a client has uploaded, the head included, if it took part in all rounds until the mean over "
        f"seeds is there.\n\n{_table(kinds, level)}\n\n"
        f"Validation accuracy by learning rate, one seed each, in half the rounds: {'; '.join(rates)}."
    )


def _kinds(found: Sequence[Run]) -> dict[Kind, list[Run]]:
    kinds: dict[Kind, list[Run]] = {}
    for run in found:
        of = run.config
        kind = (str(of["method.name"]), int(of["rank"]), of["adapt.columns"] or 0, of["upload.bits"] or 32, run.rounds)
        kinds.setdefault(kind, []).append(run)
    return dict(sorted(kinds.items(), key=lambda item: (item[0][0], -item[0][3], item[0][1:3], item[0][4])))


def _label(kind: Kind) -> str:
    name, rank, columns, bits, _ = kind
    return f"{name}, {f'({rank}, {columns})' if columns else f'rank {rank}'}{f', {bits} bits' if bits < 32 else ''}"


def _curve(members: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Tested rounds, and the mean accuracy over seeds after them."""
    known = np.isfinite(members[0].columns["test/accuracy"])
    mean = np.mean([run.columns["test/accuracy"][known] for run in members], axis=0)
    return members[0].columns["round"][known], mean


def _bytes_a_round(members: Sequence[Run]) -> float:
    return float(members[0].columns["upload_bytes"][0]) / int(members[0].config["cohort.size"])


def _table(kinds: dict[Kind, list[Run]], level: float) -> str:
    rows = []
    for kind, members in kinds.items():
        rounds, mean = _curve(members)
        first = next((float(at) for at, value in zip(rounds, mean, strict=True) if value >= level), float("nan"))
        size, whole = _bytes_a_round(members), kinds.get((*kind[:3], 32, kind[4]))
        numbers = _bytes_a_round(whole) / 4 if whole else float("nan")
        rows.append(
            [
                _label(kind),
                str(kind[4]),
                f"{numbers:,.0f}",
                "-" if np.isnan(first) else f"{first * numbers / 1e3:,.0f} k",
                "-" if np.isnan(first) else style.show_bytes(first * size),
                mean_sd([float(run.columns["test/accuracy"][-1]) for run in members], percent),
                str(len(members)),
            ]
        )
    to = f"to {percent(level)} %"
    return table(["method", "rounds", "numbers a round", f"numbers {to}", f"bytes {to}", "accuracy", "seeds"], rows)
