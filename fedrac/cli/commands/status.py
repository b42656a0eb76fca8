"""``fedrac status DIR``: how far a run has come, from what it leaves in its ``output_dir``."""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrac.monitoring import status
from fedrac.monitoring.progress import show_duration, show_metrics
from fedrac.results.record import read_metrics, to_json

_ENDED = ("finished", "stopped", "failed", "dead")


def main(argv: Sequence[str]) -> int:
    """Prints where the run stands; returns 0 if it goes on or has finished well, 1 if not.

    Raises:
        FileNotFoundError: the folder is not that of a run.
    """
    given = _parser().parse_args(argv)
    found = status.read(given.folder)
    while given.follow and found["state"] not in _ENDED:
        _show(found, given.folder, given.json)
        found = _next(given.folder, found)
    _show(found, given.folder, given.json)
    late = found["state"] == "running" and found["seconds_ago"] > given.max_age
    return 1 if late or found["state"] in ("stopped", "failed", "dead") else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedrac status",
        description="How far a run has come. The exit code is 1 if it has failed, was stopped, or its process is gone.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's output_dir")
    parser.add_argument("--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--json", action="store_true", help="one line of JSON for programs")
    late = "exit code 1 if no round has ended for so long"
    parser.add_argument("--max-age", type=float, default=math.inf, metavar="SECONDS", help=late)
    return parser


def _next(folder: Path, last: Mapping[str, Any]) -> dict[str, Any]:
    """The status once it says something new."""
    while True:
        try:
            time.sleep(0.5)
            found = status.read(folder)
        except KeyboardInterrupt:  # to look on no longer is no failure
            sys.exit(0)
        if (found["round"], found["state"]) != (last["round"], last["state"]):
            return found


def _show(found: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    metrics = {k: v for line in read_metrics(folder / "metrics.jsonl") for k, v in line.items() if "/" in k}
    known = {name: value for name, value in metrics.items() if value is not None}
    if as_json:
        print(to_json({**found, "metrics": metrics}), flush=True)
        return
    line = f"{found['state']}: round {found['round']}/{found['rounds']}, {show_duration(found['seconds_ago'])} ago"
    if found["state"] == "running" and found["seconds_left"] is not None:
        line += f", about {show_duration(found['seconds_left'])} left"
    if found["clients"]["asked"]:
        line += f"; {found['clients']['good']} of {found['clients']['asked']} clients good"
    print(f"{line}  {show_metrics(known)}", flush=True)
    for refusal in found["refused"]:
        print(f"  without {refusal}", flush=True)
    if found["error"]:
        print(f"  {found['error']}", flush=True)
    if found["state"] in ("stopped", "failed", "dead"):
        print(f"  to go on: fedrac resume={folder}", flush=True)
