"""What a run leaves in its ``output_dir``, for people and for other programs.

``config.yaml``, ``task.json``, ``versions.json``, ``clients.npz`` (`fedrac.experiment.client_labels`),
one line of ``metrics.jsonl`` a round, ``clients.parquet`` (`fedrac.results.client_record`), ``summary.json``, and
``checkpoint/``.
"""

import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrac.data.metrics import is_lower_better
from fedrac.protocol.round_report import RoundReport
from fedrac.results import client_record

log = logging.getLogger(__name__)

_NUMBERS = ("seconds", "upload_bytes", "download_bytes")  # of every line
_SIMULATED = ("simulated_seconds", "stragglers")  # of lines of a run with a simulated time


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """The whole file or none of it, whenever the machine stops or the disk is full; ``mode`` as of `os.open`."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON that every program reads: it has neither NaN nor infinity, as a model that diverged does; they are null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


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
        found, damaged = _read(self._metrics)
        if finished is None and (found or damaged):
            raise FileExistsError(
                f"output_dir={folder} holds the results of another run: choose another, or go on with it by "
                f"resume={folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".*.part"):  # its writer was killed: one process at a time writes here
            unfinished.unlink()
        if damaged:
            _keep(self._metrics, damaged)
        self.lines = [line for line in found if line["round"] <= (finished or 0)]
        client_record.keep_until(folder, finished or 0)
        self._tested = client_record.read(folder, last=True)
        _name_missing(self._metrics, self.lines, finished or 0)
        write_atomically(self._metrics, "".join(to_json(line) + "\n" for line in self.lines))
        write_atomically(folder / "config.yaml", config)
        write_atomically(folder / "versions.json", to_json(versions(), 2) + "\n")

    def describe(self, task: str, labels: Sequence[str], inputs: str) -> None:
        """Writes ``task.json``: what the model's inputs and outputs mean, for those who use it without the data.

        Args:
            task: its name.
            labels: what the classes are called, where they have names.
            inputs: ``float32`` or ``int64``, which they were, or ``texts``.
        """
        about = {"task": task, "labels": list(labels), "inputs": inputs}
        write_atomically(self.folder / "task.json", to_json(about) + "\n")

    def add(self, report: RoundReport) -> None:
        """One line of ``metrics.jsonl``, after what clients found, if they tested."""
        if report.tested is not None:
            name, content = client_record.part(report.tested)
            (self.folder / client_record.NAME).mkdir(exist_ok=True)
            write_atomically(self.folder / name, content)
            self._tested = client_record.columns_of(report.tested)
        line = metrics_line(report)
        self.lines.append(line)
        with self._metrics.open("a") as file:
            file.write(to_json(line) + "\n")

    def summarise(self, method: str, initial: dict[str, float], diverged: bool = False) -> dict[str, Any]:
        """Writes ``summary.json``: last and best values, totals, and whether the run diverged; returns it."""
        summary = summarise(self.lines, method, initial, diverged, self._tested)
        write_atomically(self.folder / "summary.json", to_json(summary, 2) + "\n")
        return summary


def summarise(
    lines: Sequence[Mapping[str, Any]],
    method: str,
    initial: Mapping[str, float],
    diverged: bool = False,
    tested: client_record.Columns | None = None,
) -> dict[str, Any]:
    """What ``summary.json`` says of a run with these lines of ``metrics.jsonl``.

    Args:
        tested: what clients found in the last round that they tested.
    """
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
        **{name: sum(line[name] for line in lines) for name in _SIMULATED if lines and all(name in x for x in lines)},
        **({"clients": client_record.distribution(tested)} if tested else {}),
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
        **report.guard,
        **report.metrics,
    }
    if report.simulated_seconds is not None:
        line |= {"simulated_seconds": report.simulated_seconds, "stragglers": len(report.late)}
    if report.late:
        line["late"] = list(report.late)
    if report.refused:
        line["refused"] = [str(refusal) for refusal in report.refused]
    return {name: _finite(value) for name, value in line.items()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line that was cut off is left out, damaged ones are named in the log."""
    lines, damaged = _read(path)
    if damaged:
        log.warning("%s: line %s cannot be read", path, _places(damaged))
    return lines


def _read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines, and the numbers of those that are damaged. The last one may be cut off: its round did not end."""
    lines: list[dict[str, Any]] = []
    damaged: list[int] = []
    texts = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            if type(line["round"]) is not int or not all(isinstance(line[name], int | float) for name in _NUMBERS):
                raise ValueError("it is not a round's line")
            lines.append(line)
        except (ValueError, KeyError, TypeError):
            if number < len(texts):
                damaged.append(number)
    return lines, damaged


def _keep(path: Path, damaged: Sequence[int]) -> None:
    """Before a file with damaged lines is written anew, it is put beside it."""
    copy = path.with_name("metrics.damaged.jsonl")
    shutil.copy2(path, copy)
    log.warning("%s: line %s cannot be read; the others stay, and %s has them all", path, _places(damaged), copy.name)


def _name_missing(path: Path, lines: Sequence[Mapping[str, Any]], finished: int) -> None:
    there = {line["round"] for line in lines}
    if missing := [number for number in range(1, finished + 1) if number not in there]:
        log.warning("%s has no line of round %s, which the checkpoint has", path, _places(missing))


def _places(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
