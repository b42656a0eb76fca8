"""What a person sees of a run: one live line in a terminal, a line for every evaluated round elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.round_report import RoundReport


def show_log() -> None:
    """Shows what the package has to say (a rank that was lowered, say) beside the progress."""
    logger = logging.getLogger("fedrac")  # not the root logger: Flower's own messages would come twice
    for handler in logger.handlers[:]:
        if type(handler) is logging.StreamHandler:  # from an earlier call, when stderr may have been another one
            logger.removeHandler(handler)
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(shown)
    logger.setLevel(logging.INFO)


class Watcher(Protocol):
    """Is told how a run goes."""

    def begin(self, strategy: FedRacLora, rounds: int, folder: Path | None, initial: Mapping[str, float]) -> None:
        """Before the first round that is run.

        Args:
            strategy: what will be done; its ``state`` is where an earlier run stopped, if there was one.
            rounds: the last round's number.
            folder: the run's ``output_dir``; None: nothing is written.
            initial: the test metrics as they are now.
        """

    def round(self, report: RoundReport) -> None:
        """After every round, when it is on disk."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """After the last round, with the content of ``summary.json``."""


class Progress:
    """Prints the state of a run."""

    def __init__(self) -> None:
        self._rounds = self._first = 0
        self._live = sys.stdout.isatty()
        self._begin = time.monotonic()
        self._score = ""
        self._folder: Path | None = None

    def begin(self, strategy: FedRacLora, rounds: int, folder: Path | None, initial: Mapping[str, float]) -> None:
        """What will be done, and from where."""
        self._rounds, self._first, self._folder = rounds, strategy.finished_rounds, folder
        self._begin = time.monotonic()
        numbers = " or ".join(f"{count:,}" for count in strategy.uploads())
        numbers = f"up to {numbers}" if strategy.method.has_ranks else numbers
        side = " and ".join(strategy.method.sides)
        print(f"{strategy.method.name} ({side} sketch), {rounds} rounds, cohorts of "
              f"{strategy.server.cohort_size}; upload per client and round: {numbers} numbers")  # fmt: skip
        if folder is not None:
            print(f"results go to {folder}")
        print(f"before round {self._first + 1}: {show_metrics(initial)}", flush=True)

    def round(self, report: RoundReport) -> None:
        """After every round."""
        self._score = show_metrics(report.metrics) or self._score
        done, left = report.round - self._first, self._rounds - report.round
        seconds = (time.monotonic() - self._begin) / done * left
        line = f"round {report.round}/{self._rounds}  train loss {report.train_loss:.4f}  {self._score}  "
        line += f"{show_duration(seconds)} left"
        if self._live:
            print(f"\r\x1b[K{line}", end="\n" if left == 0 else "", flush=True)
        elif report.metrics or left == 0:
            print(line, flush=True)

    def end(self, summary: Mapping[str, Any]) -> None:
        """What was reached, and where it lies."""
        print(f"done in {show_duration(summary['seconds'])}: {show_metrics(summary['last'])}  "
              f"(uploaded {_bytes(summary['upload_bytes'])} in all)", flush=True)  # fmt: skip
        if self._folder is not None:
            print(f"results: {self._folder}", flush=True)


_HIDDEN = ("train/", "clients/mean_", "clients/sd_", "clients/worst10_loss")


def show_metrics(values: Mapping[str, Any]) -> str:
    """Such as ``test accuracy 90.0%  test loss 0.3134``; without training metrics and most of how clients spread."""
    shown = {name: value for name, value in values.items() if not name.startswith(_HIDDEN)}
    return "  ".join(
        f"{name.replace('/', ' ')} {value:.1%}"
        if name.endswith("accuracy")
        else f"{name.replace('/', ' ')} {_number(value)}"
        for name, value in shown.items()
    )


def _number(value: float) -> str:
    """With four digits behind the point; a delta of 1e-5 would be none."""
    return f"{value:.2g}" if 0 < abs(value) < 1e-4 else f"{value:.4f}"


def show_duration(seconds: float) -> str:
    """Such as ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if seconds >= 1 else f"{seconds:.1f} s"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
