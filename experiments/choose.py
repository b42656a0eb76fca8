"""Chooses every method's learning rate: the best mean accuracy on validation data after the last round.

``python -m experiments.choose FOLDER`` reads the runs of a grid and prints, for every rate that was chosen, a name for
the folder and the overrides of a sweep.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.recorded import grouped, runs
from fedrac.experiment import compose
from fedrac.results.report.runs import Run

Choice = dict[tuple[str, str], float]  # by name and side of the method


def scores(found: list[Run]) -> dict[tuple[str, str, float], float]:
    """Mean accuracy by name, side and learning rate; 0 where a run diverged."""
    kinds = grouped(found, "method.name", "method.side", "local.lr")
    return {kind: float(np.mean([_accuracy(run) for run in members])) for kind, members in kinds.items()}


def _accuracy(run: Run) -> float:
    return float(run.columns["test/accuracy"][-1]) if run.rounds == run.planned else 0.0


def choices(found: list[Run]) -> Choice:
    """The learning rate of every method; of two that are as good, the smaller one."""
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for (name, side, rate), score in scores(found).items():
        best[name, side] = max(best.get((name, side), (-1.0, 0.0)), (score, -rate))
    return {kind: -rate for kind, (_, rate) in best.items()}


def main(folder: Path) -> None:
    """Prints the sweeps."""
    files = {
        compose.load([f"method={path.stem}"]).method.name: path.stem
        for path in (compose.config_dir() / "method").iterdir()
    }
    together: dict[tuple[float, str], list[str]] = {}
    for (name, side), rate in choices(runs(folder)).items():
        together.setdefault((rate, side), []).append(files[name])
    for (rate, side), methods in sorted(together.items()):
        print(f"{rate:g}-{side} method={','.join(methods)} method.side={side} local.lr={rate:g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
