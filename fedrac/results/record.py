"""What a run leaves in its ``output_dir``, for people and for other programs.

``config.yaml``, ``task.json``, ``versions.json``, ``clients.npz`` (`fedrac.experiment.client_labels`),
one line of ``metrics.jsonl`` a round, ``summary.json``, and ``checkpoint/``.
"""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrac.protocol.round_report import RoundReport


def write_atomically(path: Path, text: str) -> None:
    """The whole file or none of it, whenever the machine stops."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, and the machine."""
    names = ("fedrac", "flwr", "flwr-datasets", "numpy", "ray", "torch")
    found = {name: _version(name) for name in names}
    return {**found, "python": platform.python_version(), "machine": f"{platform.platform()}, {os.cpu_count()} CPUs"}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class Record:
    """Writes the files of one run.

    Args:
        folder: the run's ``output_dir``; made if it is not there.
        config: the resolved configuration as YAML.
        finished: of a run that goes on, the last round that counts; lines of later ones (it was cut off) are dropped.
            None: the run is new.

    Raises:
        FileExistsError: the folder holds rounds of another run, which are not overwritten.
    """

    def __init__(self, folder: Path, config: str, finished: int | None = None) -> None:
        self.folder = folder
        self._metrics = folder / "metrics.jsonl"
        found = read_metrics(self._metrics)
        if finished is None and found:
            raise FileExistsError(
                f"output_dir={folder} holds the results of another run: choose another, or go on with it by "
                f"resume={folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = [line for line in found if line["round"] <= (finished or 0)]
        write_atomically(self._metrics, "".join(json.dumps(line) + "\n" for line in self.lines))
        write_atomically(folder / "config.yaml", config)
        write_atomically(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")

    def describe(self, task: str, labels: Sequence[str], inputs: str) -> None:
        """Writes ``task.json``: what the model's inputs and outputs mean, for those who use it without the data.

        Args:
            task: its name.
            labels: what the classes are called, where they have names.
            inputs: ``float32`` or ``int64``, which they were, or ``texts``.
        """
        about = {"task": task, "labels": list(labels), "inputs": inputs}
        write_atomically(self.folder / "task.json", json.dumps(about) + "\n")

    def add(self, report: RoundReport) -> None:
        """One line of ``metrics.jsonl``."""
        line = metrics_line(report)
        self.lines.append(line)
        with self._metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def summarise(self, method: str, initial: dict[str, float], diverged: bool = False) -> dict[str, Any]:
        """Writes ``summary.json``: last and best values, totals, and whether the run diverged; returns it."""
        summary = summarise(self.lines, method, initial, diverged)
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def summarise(
    lines: Sequence[Mapping[str, Any]], method: str, initial: Mapping[str, float], diverged: bool = False
) -> dict[str, Any]:
    """What ``summary.json`` says of a run with these lines of ``metrics.jsonl``."""
    names = sorted({name for line in lines for name in line if "/" in name})
    columns = {name: [v for line in lines if (v := line.get(name)) is not None] for name in names}
    return {
        "method": method,
        "rounds": lines[-1]["round"] if lines else 0,
        "diverged": diverged,
        "initial": dict(initial),
        "last": {name: values[-1] for name, values in columns.items() if values},
        "best": {
            name: (min if is_lower_better(name) else max)(v)
            for name, v in columns.items()
            if v and not name.startswith(("guard/", "privacy/"))
        },
        "upload_bytes": sum(line["upload_bytes"] for line in lines),
        "download_bytes": sum(line["download_bytes"] for line in lines),
        "seconds": sum(line["seconds"] for line in lines),
    }


def metrics_line(report: RoundReport) -> dict[str, Any]:
    """What is recorded of a round."""
    line: dict[str, Any] = {
        "round": report.round,
        "seconds": report.seconds,
        "cohort": list(report.cohort),
        "eta": report.eta,
        "train/loss": report.train_loss,
        "upload_bytes": report.upload_bytes,
        "download_bytes": report.download_bytes,
        **without_nan({**report.guard, **report.metrics}),
    }
    if report.refused:
        line["refused"] = [str(refusal) for refusal in report.refused]
    return line


def without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN or infinity, and a model that diverged has both: they become null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def is_lower_better(name: str) -> bool:
    """Whether a smaller value of this metric is a better one."""
    return name.endswith(("loss", "mse", "objective"))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line that was cut off is left out."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
