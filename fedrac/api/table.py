"""Many runs as one table."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedrac.api.runs import load
from fedrac.results.report.compare import compare
from fedrac.results.report.runs import Run, Skipped, find, flat

if TYPE_CHECKING:
    from pandas import DataFrame


def table(folder: str | Path) -> "DataFrame":
    """The runs in a folder, however deep: of a sweep, say.

    Args:
        folder: of several runs, or of one.

    Returns:
        A row a run, by the name of its folder. The columns are the settings that differ (``method.name``, ``rank``,
        ``seed``, ...), then what `Run.summary` has, by dotted names (``last.test/accuracy``, ``upload_bytes``, ...).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no run in it with a finished round.

    Warns:
        UserWarning: names folders that cannot be read, which have no row, and runs that have not ended, which have one.
    """
    import pandas

    place = Path(folder)
    runs, skipped = find(place, place / "report")
    broken = [(name, reason) for name, reason in skipped if (place / name).is_dir()]
    if not runs:
        raise ValueError(_listed(f"{place} has no run with a finished round; give the folder of one or more", broken))
    if remarks := [*broken, *_unfinished(runs)]:
        warnings.warn(_listed(f"of the runs in {place}", remarks), stacklevel=2)
    keys = _differing(runs)
    rows = [
        {**{key: run.config.get(key) for key in keys}, **dict(flat(load(place / run.name).summary))} for run in runs
    ]
    return pandas.DataFrame(rows, index=pandas.Index([run.name for run in runs], name="run"))


def _differing(runs: Sequence[Run]) -> list[str]:
    """The settings that differ, those that people speak of first; the seed is the last one."""
    comparison = compare(runs)
    seeds = ["seed"] if len({run.seed for run in runs}) > 1 else []
    return [*dict.fromkeys([*comparison.keys, *comparison.differences]), *seeds]


def _unfinished(runs: Sequence[Run]) -> list[Skipped]:
    return [
        (run.name, f"{run.rounds} of {run.planned} rounds are finished")
        for run in runs
        if run.rounds < run.planned and not run.diverged
    ]


def _listed(title: str, remarks: Sequence[Skipped]) -> str:
    return "\n  ".join([title, *(f"{name}: {reason}" for name, reason in remarks)])
