"""Recorded runs for the tests, without running anything."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import Record


def record(
    folder: Path,
    accuracies: Sequence[float] = (0.25, 0.5, 0.75),
    upload: int = 10,
    finished: bool = True,
    **config: Any,
) -> Path:
    """A run with one evaluated round for each accuracy; dots in names of settings are written as ``__``."""
    settings = OmegaConf.create({"seed": 1, "rounds": len(accuracies), "method": {"name": "Fed-RAC-LoRA"}})
    for key, value in config.items():
        OmegaConf.update(settings, key.replace("__", "."), value, force_add=True)
    run = Record(folder, OmegaConf.to_yaml(settings))
    for number, accuracy in enumerate(accuracies, 1):
        metrics = {"test/accuracy": accuracy, "test/loss": 1 - accuracy}
        run.add(RoundReport(number, [0], 1.0, 2.0 / number, upload, 100, (), 0.5, metrics))
    if finished:
        run.summarise(settings.method.name, {"test/accuracy": 0.125, "test/loss": 4.0})
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    """Of the metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
