"""Where a run stands: ``status.json`` in its ``output_dir``, for health checks and for people who look on."""

import json
import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import to_json, write_atomically

FILE = "status.json"
_PAUSE = 0.5  # seconds between writes, so that short rounds do not wait for the disk


class Status:
    """Writes ``status.json`` while a run goes on; a context manager, which also notes how the run ended.

    Args:
        folder: the run's ``output_dir``.
        rounds: the last round's number.
        finished: rounds done before.
        initial: the test metrics before round 1.
    """

    def __init__(self, folder: Path, rounds: int, finished: int, initial: Mapping[str, float] | None = None) -> None:
        self._path, self._first, self._begin = folder / FILE, finished, time.monotonic()
        self._written = -_PAUSE
        now = _now()
        self._values: dict[str, Any] = {
            "state": "running",  # finished, stopped (Ctrl-C), failed
            "round": finished,
            "rounds": rounds,
            "initial": dict(initial or {}),
            "started": now,
            "updated": now,  # when the last round ended, or the state changed
            "seconds_left": None,
            "clients": {"asked": 0, "good": 0},  # of the last round
            "refused": [],
            "error": None,
            "process": os.getpid(),
            "machine": platform.node(),
        }

    def __enter__(self) -> "Status":
        self._write()
        return self

    def round(self, report: RoundReport) -> None:
        """After every round."""
        asked, refused = len(report.cohort), sum(len(refusal.clients) for refusal in report.refused)
        rounds = self._values["rounds"]
        left = (time.monotonic() - self._begin) / (report.round - self._first) * (rounds - report.round)
        self._values |= {
            "round": report.round,
            "updated": _now(),
            "seconds_left": round(left, 1),
            "clients": {"asked": asked, "good": asked - refused},
            "refused": list(map(str, report.refused)),
        }
        if time.monotonic() - self._written > _PAUSE:
            self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = "finished" if kind is None else "stopped" if kind is KeyboardInterrupt else "failed"
        self._values |= {"state": state, "updated": _now(), "error": str(error) if state == "failed" else None}
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        write_atomically(self._path, to_json(self._values, 2) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """What ``status.json`` says, and ``seconds_ago`` of its last update; state ``dead`` where the process is gone.

    Raises:
        FileNotFoundError: the folder is not that of a run.
    """
    try:
        values: dict[str, Any] = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {FILE}: give the output_dir of a run that has begun") from None
    ago = datetime.now(UTC) - datetime.fromisoformat(values["updated"])
    if values["state"] == "running" and not _lives(values):
        values["state"] = "dead"
    return {**values, "seconds_ago": max(ago.total_seconds(), 0.0)}


def _lives(values: Mapping[str, Any]) -> bool:
    """Whether the process is there; on another machine, or in another container, it is taken to be."""
    if values["machine"] != platform.node():
        return True
    try:
        os.kill(int(values["process"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
