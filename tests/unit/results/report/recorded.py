"""Recorded runs for the tests, without running anything."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from fedrac.protocol.client_evaluation import ClientMetrics
from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import Record


def record(
    folder: Path,
    accuracies: Sequence[float] = (0.25, 0.5, 0.75),
    upload: int = 10,
    finished: bool = True,
    tested: ClientMetrics | None = None,
    simulated: Sequence[float] = (),
    **config: Any,
) -> Path:
    """A run with one evaluated round for each accuracy; dots in names of settings are written as ``__``.

    ``tested`` is what clients found in the last one, ``simulated`` how long each took in simulated time.
    """
    settings = OmegaConf.create({"seed": 1, "rounds": len(accuracies), "method": {"name": "Fed-RAC-LoRA"}})
    for key, value in config.items():
        OmegaConf.update(settings, key.replace("__", "."), value, force_add=True)
    run = Record(folder, OmegaConf.to_yaml(settings))
    for number, accuracy in enumerate(accuracies, 1):
        metrics = {"test/accuracy": accuracy, "test/loss": 1 - accuracy}
        report = RoundReport(number, [0], 1.0, 2.0 / number, upload, 100, (), 0.5, metrics)
        if tested is not None and number == len(accuracies):
            report.tested, report.metrics = tested, {**metrics, **tested.spread()}
        if simulated:
            report.simulated_seconds, report.late = simulated[number - 1], [7]
        run.add(report)
    if finished:
        run.summarise(settings.method.name, {"test/accuracy": 0.125, "test/loss": 4.0})
    return folder


def found(accuracies: Sequence[float]) -> ClientMetrics:
    """By as many clients as there are accuracies, in round 3."""
    values = np.array(accuracies)
    return ClientMetrics(3, np.arange(len(values)), np.ones(len(values)), {"accuracy": values}, {})


def lines(folder: Path) -> list[dict[str, Any]]:
    """Of the metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
