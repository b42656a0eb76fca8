"""Runs as they lie on disk. Whatever else is there is named with the reason why it is not used."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fedrac.results import client_record

Floats = NDArray[np.float64]
Skipped = tuple[str, str]

_FILES = {
    *("config.yaml", "metrics.jsonl", "summary.json", "versions.json", "status.json", "nodes.json", "own.key"),
    *("task.json", "clients.npz", "error.txt", "mlflow.json", "wandb.json", "metrics.damaged.jsonl"),
}
_RUN_FOLDERS = ("checkpoint", "best", "tensorboard", "wandb", "clients.parquet")  # or what begins so
_NUMBERS = ("round", "seconds", "upload_bytes", "download_bytes")
SIMULATED = ("simulated_seconds", "stragglers")  # of runs with a simulated time


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    Attributes:
        name: its folder, seen from the folder of the report.
        config: every value of ``config.yaml`` by its dotted key.
        columns: numbers by name, one an entry of ``metrics.jsonl``; nan where there is none.
        initial: the test metrics before round 1, if the run has ended.
        diverged: it ended because numbers were not finite any more.
        labels: (clients, classes) int64, numbers of examples; None where they were not recorded.
        tested: by metric, that of each client, (clients,), after the last round that clients tested.
        versions: content of ``versions.json``.
        remarks: what is damaged.
    """

    name: str
    config: Mapping[str, Any]
    columns: Mapping[str, Floats]
    initial: Mapping[str, float] = field(default_factory=dict)
    diverged: bool = False
    labels: NDArray[np.int64] | None = None
    tested: Mapping[str, Floats] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    @property
    def seed(self) -> int:
        """Of all its randomness."""
        return int(self.config["seed"])

    @property
    def rounds(self) -> int:
        """The last finished round."""
        return int(self.columns["round"][-1])

    @property
    def planned(self) -> int:
        """The last round that was asked for."""
        return int(self.config["rounds"])

    def metrics(self) -> list[str]:
        """Names such as ``test/accuracy`` that have a value."""
        return [name for name, values in self.columns.items() if "/" in name and np.isfinite(values).any()]

    def total(self, name: str) -> Floats:
        """Running total of ``upload_bytes``, ``download_bytes``, ``seconds`` and of `SIMULATED`, (rounds,).

        The seconds begin after the first round: most of its time is that of loading data and of warming up.
        """
        values = np.nan_to_num(self.columns[name])
        return np.cumsum([0.0, *values[1:]] if name == "seconds" else values)


def find(folder: Path, output: Path) -> tuple[list[Run], list[Skipped]]:
    """All runs in a folder, however deep, by name; and what was skipped, with reasons.

    Args:
        output: where the report goes; files there are not looked at.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give the output_dir of a run, or a folder with several")
    runs: list[Run] = []
    skipped: list[Skipped] = []
    for place, names in _folders(folder, output):
        name = str(place.relative_to(folder))
        if _FILES.isdisjoint(names):
            skipped += [(str((place / n).relative_to(folder)), "not a file of a run") for n in sorted(names - _FILES)]
            continue
        try:
            runs.append(read(place, name))
        except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
            skipped.append((name, " ".join(str(error).split()) + _last_words(place)))
        skipped += [(f"{name}/{n}", "not a file of a run") for n in sorted(names - _FILES)]
    return runs, skipped


def _folders(folder: Path, output: Path) -> Iterator[tuple[Path, set[str]]]:
    for text, folders, files in os.walk(folder):
        place = Path(text)
        if place != folder and _is_report(place, output):
            folders.clear()
            continue
        own = () if _FILES.isdisjoint(files) else _RUN_FOLDERS
        folders[:] = sorted(name for name in folders if not name.startswith((*own, ".")))
        yield place, {name for name in files if not name.startswith(".")}


def _is_report(place: Path, output: Path) -> bool:
    """This report's folder or that of another one, e.g. of a sweep."""
    return place.absolute() == output.absolute() or (place / "report.html").exists()


def _last_words(place: Path) -> str:
    try:
        return f"; it failed with {(place / 'error.txt').read_text().strip().splitlines()[-1]}"
    except (OSError, ValueError, IndexError):
        return ""


def read(folder: Path, name: str) -> Run:
    """
    Raises:
        ValueError: these are not the files of a run with a finished round.
    """
    config = OmegaConf.to_container(OmegaConf.create(_text(folder / "config.yaml")))
    if not isinstance(config, dict) or any(type(config.get(key)) is not int for key in ("seed", "rounds")):
        raise ValueError("config.yaml is not a run's configuration: it has no seed and rounds")
    lines, remarks = _lines(folder / "metrics.jsonl")
    if not lines:
        raise ValueError("no round is finished")
    summary = _json(folder / "summary.json", remarks)
    initial = {k: _number(v) for k, v in _mapping(summary.get("initial")).items()}
    diverged = summary.get("diverged") is True
    versions = {k: str(v) for k, v in _json(folder / "versions.json", remarks).items()}
    names = dict.fromkeys([*_NUMBERS, *(k for line in lines for k in line if "/" in k or k in SIMULATED)])
    columns = {key: np.array([_number(line.get(key)) for line in lines]) for key in names}
    labels, tested = _labels(folder, remarks), _tested(folder, remarks)
    return Run(name, dict(flat(config)), columns, initial, diverged, labels, tested, versions, remarks)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not a text file") from None


def _lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The readable lines, and what is to be said of the others."""
    lines: list[dict[str, Any]] = []
    texts = path.read_bytes().splitlines() if path.exists() else []
    damaged: list[int] = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            damaged.append(number)
            continue
        last = lines[-1]["round"] if lines else 0
        if not isinstance(line, dict) or type(line.get("round")) is not int or line["round"] <= last:
            raise ValueError(f"metrics.jsonl: line {number} is not that of a run: it has no round above {last}")
        lines.append(line)
    if not lines:
        _text(path)  # is it one?
    if damaged == [len(texts)]:
        return lines, [f"metrics.jsonl: line {len(texts)} of {len(texts)} is cut off; the lines before it are used"]
    shown = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
    remark = f"metrics.jsonl: {len(damaged)} of {len(texts)} lines cannot be read ({shown}); the others are used"
    return lines, [remark] if damaged else []


def _json(path: Path, remarks: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return _mapping(json.loads(_text(path)))
    except ValueError:
        remarks.append(f"{path.name} cannot be read")
        return {}


def _labels(folder: Path, remarks: list[str]) -> NDArray[np.int64] | None:
    path = folder / "clients.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = np.asarray(arrays["labels"], dtype=np.int64)
        if labels.ndim == 2 and labels.size and (labels >= 0).all():
            return labels
    except Exception:  # a damaged archive raises almost anything
        pass
    remarks.append("clients.npz cannot be read")
    return None


def _tested(folder: Path, remarks: list[str]) -> dict[str, Floats]:
    try:
        found = client_record.read(folder, last=True) or {}
        return {name: np.asarray(values, float) for name, values in found.items() if name not in client_record.KEYS}
    except Exception:  # a damaged file raises almost anything
        remarks.append(f"{client_record.NAME} cannot be read")
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings; lists are values."""
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            yield from flat(entry, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", entry
