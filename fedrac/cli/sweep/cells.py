"""The cells of a sweep: which there are, whether their settings are right, and what earlier attempts left of them."""

import enum
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedrac.experiment import compose
from fedrac.experiment.settings import ConfigError, parse

# What a run's results do not depend on: where they lie.
_PLACE = ("output_dir", "resume")
_LONGEST_NAME = 180  # of a folder, in characters; file systems take 255 bytes


class Status(enum.Enum):
    """What is there of a cell."""

    NEW = "new"
    BEGUN = "begun"
    FINISHED = "finished"


@dataclass(frozen=True)
class SweepSpec:
    """``sweep`` of the configuration.

    Attributes:
        dir: every cell has a folder of its own in this one.
        jobs: how many cells run at a time, each in a process; None: one for each core that there is.

    Raises:
        ConfigError: a value is no folder, or no number of at least 1.
    """

    dir: str | None
    jobs: int | None

    def __post_init__(self) -> None:
        if self.jobs is not None and (type(self.jobs) is not int or self.jobs < 1):
            raise ConfigError(f"sweep.jobs={self.jobs!r} must be a whole number of at least 1, or null")
        if self.dir is not None and not isinstance(self.dir, str):
            raise ConfigError(f"sweep.dir={self.dir!r} must be a folder")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: the values that are its own, e.g. ``cohort.size=5,seed=0``.
        settings: of the run; ``output_dir`` is the cell's folder.
        status: whether it is finished, under way, or new.
    """

    name: str
    settings: DictConfig
    status: Status


def prepare(overrides: Sequence[str]) -> tuple[SweepSpec, list[Cell]]:
    """Composes and checks every cell, before any is run.

    Args:
        overrides: as Hydra takes them: ``seed=1,2`` or ``seed=range(5)`` is swept. Those of ``hydra.sweeper.params``,
            which an experiment can set, come before.

    Raises:
        ConfigError: settings of cells are wrong (all such cells are named), or a folder holds another run.
    """
    _refuse_what_is_a_cells_own(overrides)
    section, fixed, axes = compose.split_sweep(overrides)
    spec = SweepSpec(**section)
    folder = Path(spec.dir or _default_dir(fixed, axes)).expanduser().absolute()
    spec = replace(spec, dir=str(folder))
    cells, wrong = {}, []
    for values in itertools.product(*axes.values()):
        own = [f"{key}={value}" for key, value in zip(axes, values, strict=True)]
        name = ",".join(override.lstrip("+") for override in own) or "cell"
        try:
            cells[name] = _cell(name, [*fixed, *own], folder)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    if wrong:
        raise ConfigError(_listed(f"{len(wrong)} of the sweep's cells cannot run, and none was started", wrong))
    return spec, list(cells.values())


def _refuse_what_is_a_cells_own(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if key.startswith("-"):
            raise ConfigError(f"{key}: with -m there are only settings, KEY=VALUE; see fedrac --help")
        if key in _PLACE:
            raise ConfigError(
                f"{override}: in a sweep every run has a folder of its own. Give the folder of them all with "
                "sweep.dir=DIR; the same command goes on with a sweep that stopped"
            )
        if key.startswith(("hydra.sweep.", "hydra.launcher")):
            raise ConfigError(f"{override}: use sweep.dir=DIR and sweep.jobs=N")


def _default_dir(fixed: Sequence[str], axes: Mapping[str, Any]) -> str:
    """The same for the same keys and the same fixed settings, so that a sweep is found again, and can be extended."""
    name = "_".join(["sweep", *(key.lstrip("+") for key in axes)])
    rest = sorted(override for override in fixed if not override.lstrip("+").startswith("sweep."))
    return f"outputs/{_file_name(name)}" + (f"_{_digest(rest)}" if rest else "")


def _cell(name: str, overrides: Sequence[str], folder: Path) -> Cell:
    settings = compose.load(overrides)
    parse(settings)
    place = folder / _file_name(name)
    settings.output_dir = str(place)
    return Cell(name, settings, _status(place, settings))


def _status(folder: Path, settings: DictConfig) -> Status:
    """
    Raises:
        ConfigError: the folder holds a run with other settings, or one that nothing is known of.
    """
    saved, metrics = folder / "config.yaml", folder / "metrics.jsonl"
    if not saved.exists():
        if metrics.exists() and metrics.stat().st_size:
            raise ConfigError(f"{folder} holds a run without config.yaml: move it away, or choose another sweep.dir")
        return Status.NEW
    if differences := _differences(_flat(compose.read_saved(folder)), _flat(settings)):
        raise ConfigError(
            f"{folder} holds a run with other settings ({differences}): choose another sweep.dir, or move it away"
        )
    return Status.FINISHED if _is_finished(folder, settings.rounds) else Status.BEGUN


def _is_finished(folder: Path, rounds: int) -> bool:
    """All rounds are done, or the run diverged, as it would again."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        return bool(summary["rounds"] == rounds or summary.get("diverged", False))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _flat(settings: DictConfig) -> dict[str, str]:
    """Every value by its dotted key, as YAML has it."""
    saved = OmegaConf.create(compose.to_yaml(settings))
    values = {key: OmegaConf.select(saved, key) for key in compose.all_keys(OmegaConf.to_container(saved))}
    return {k: str(v) for k, v in values.items() if k not in _PLACE and not OmegaConf.is_dict(v)}


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    shown = [f"{key}={old.get(key, 'nothing')} there, {new.get(key, 'nothing')} here" for key in keys[:3]]
    return "; ".join(shown) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


def _listed(title: str, lines: Sequence[str], most: int = 10) -> str:
    rest = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return "\n  ".join([f"{title}:", *lines[:most], *rest])


def _file_name(name: str) -> str:
    clean = re.sub(r"[^\w.,=+-]+", "_", name)[:_LONGEST_NAME]
    return clean if clean == name else f"{clean}_{_digest([name])}"


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:6]
