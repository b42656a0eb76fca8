"""The trials by which every method of the family got its rates.

``python -m experiments.family_trials FOLDER`` prints what was best for every method, as settings.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.recorded import percent, runs
from fedrac.experiment import compose
from fedrac.results.report.runs import Run

_TUNED = (
    *("local.lr", "local.batch_size", "adapt.basis"),
    *("method.prox", "method.penalty", "method.step_size", "method.optimizer.lr"),
)


def files() -> dict[str, str]:
    """The file below ``conf/method`` of every method's name."""
    stems = sorted(path.stem for path in (compose.config_dir() / "method").glob("*.yaml") if path.stem != "custom")
    return {compose.load([f"method={stem}"]).method.name: stem for stem in stems}


def measure(run: Run) -> str:
    """The metric that tells how good the run's models are: the global one's, or the clients' own."""
    return "clients/personal_accuracy" if run.config["method.personal"] else "test/accuracy"


def trials(found: Sequence[Run]) -> dict[str, dict[tuple[tuple[str, object], ...], float]]:
    """Mean validation accuracy by method and by what its trials differ in; 0 where a run diverged."""
    scores: dict[str, dict[tuple[tuple[str, object], ...], list[float]]] = {}
    for name in sorted({str(run.config["method.name"]) for run in found}):
        members = [run for run in found if run.config["method.name"] == name]
        keys = [key for key in _TUNED if len({str(run.config.get(key)) for run in members}) > 1]
        for run in members:
            value = float(run.columns[measure(run)][-1]) if run.rounds == run.planned else 0.0
            scores.setdefault(name, {}).setdefault(tuple((k, run.config[k]) for k in keys), []).append(value)
    return {name: {kind: float(np.mean(v)) for kind, v in kinds.items()} for name, kinds in scores.items()}


def shown(found: Sequence[Run]) -> str:
    """All of them, for the page."""
    parts = []
    for name, kinds in trials(found).items():
        best = max(kinds, key=kinds.__getitem__)
        texts = [f"{_settings(kind)}: {percent(value)}" for kind, value in kinds.items()]
        chosen = f"{_settings(best)}: {percent(kinds[best])}"
        parts.append(f"{name}: {'; '.join(f'**{text}**' if text == chosen else text for text in texts)}.")
    return "<details><summary>Validation accuracy of the trials; chosen in bold</summary>\n\n{}\n\n</details>".format(
        "\n\n".join(parts)
    )


def _settings(kind: Sequence[tuple[str, object]]) -> str:
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in kind)


def main(folder: Path) -> None:
    """Prints what was best, a line for each method."""
    stems = files()
    for name, kinds in trials(runs(folder)).items():
        best = max(kinds, key=kinds.__getitem__)
        print(stems[name], *(f"{key}={value}" for key, value in best), f"# {percent(kinds[best])} %")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
