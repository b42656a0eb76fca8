"""What a person sees of a sweep: a line for every cell at its end, and below a live one where there is a terminal."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrac.cli.sweep.cells import Cell, Status
from fedrac.monitoring.progress import show_duration, show_metrics

_REFRESH_SECONDS = 0.2


class SweepProgress:
    """Prints the state of a sweep.

    Args:
        cells: all of them.
        folder: where they lie.
        jobs: how many run at a time.
    """

    def __init__(self, cells: Sequence[Cell], folder: Path, jobs: int) -> None:
        self._names, self._folder, self._jobs = [cell.name for cell in cells], folder, max(jobs, 1)
        self._total = len(cells)
        self._earlier = sum(cell.status is Status.FINISHED for cell in cells)
        self._ended = 0
        self._rounds: dict[str, tuple[int, int]] = {}
        self.failures: dict[str, str] = {}
        self._live, self._begin, self._drawn = sys.stdout.isatty(), time.monotonic(), 0.0
        self._width = max(len(cell.name) for cell in cells)
        self._announce(sum(cell.status is Status.BEGUN for cell in cells))

    def _announce(self, begun: int) -> None:
        earlier = f", {self._earlier} of them finished before" if self._earlier else ""
        going_on = f", {begun} begun before go on" if begun else ""
        print(f"{self._total} runs{earlier}{going_on}; {self._jobs} at a time")
        print(f"results go to {self._folder}", flush=True)

    def event(self, cell: Cell, kind: str, content: Any) -> None:
        """What a cell's process says."""
        if kind == "round":
            self._rounds[cell.name] = content
            self._draw()
            return
        if kind == "log":
            self._print(f"{cell.name}: {content}")
            return
        self._rounds.pop(cell.name, None)
        self._ended += 1
        if kind == "failed":
            self.failures[cell.name] = content
        said = _reached(content) if kind == "finished" else f"FAILED: {content.splitlines()[0] if content else ''}"
        self._print(f"[{self._done:>{len(str(self._total))}}/{self._total}] {cell.name:<{self._width}}  {said}")

    @property
    def _done(self) -> int:
        return self._earlier + self._ended

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._live or now - self._drawn < _REFRESH_SECONDS:
            return
        self._drawn = now
        running = "  ".join(f"{name} round {at}/{last}" for name, (at, last) in self._rounds.items())
        line = f"{self._done}/{self._total} done{self._left(now)}  {running}"
        print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)

    def _left(self, now: float) -> str:
        """By the pace so far, the parts of runs under way included."""
        done = self._ended + sum(at / last for at, last in self._rounds.values())
        rest = self._total - self._earlier - done
        return f", about {show_duration((now - self._begin) / done * rest)} left" if done else ""

    def _print(self, line: str) -> None:
        print(f"\r\x1b[K{line}" if self._live else line, flush=True)

    def stopped(self) -> None:
        """After Ctrl-C."""
        self._print(
            f"stopped; {self._done - len(self.failures)} of {self._total} runs are finished in {self._folder}; the "
            "same command goes on"
        )

    def end(self) -> dict[str, str]:
        """After the last cell; returns what failed, with reasons."""
        print(f"{self._done - len(self.failures)} of {self._total} runs are finished, "
              f"in {show_duration(time.monotonic() - self._begin)}", flush=True)  # fmt: skip
        failed = [(name, self.failures[name]) for name in self._names if name in self.failures]  # as the sweep has them
        for reason in dict.fromkeys(why for _, why in failed):
            names = [name for name, why in failed if why == reason]
            print(f"failed: {' | '.join(names)}\n  {reason}", file=sys.stderr, flush=True)
        return self.failures


def _reached(summary: Mapping[str, Any]) -> str:
    if summary["diverged"]:
        return f"diverged after round {summary['rounds']}"
    return f"{show_metrics(summary['last'])}  ({show_duration(summary['seconds'])})"
