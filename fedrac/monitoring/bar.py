"""What a person sees of a run that a Python program makes: a progress bar, in a terminal as in a notebook."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from fedrac.flower.strategy import FedRacLora
from fedrac.monitoring.progress import show_metrics
from fedrac.protocol.round_report import RoundReport


class Bar:
    """One bar for all rounds, with the latest test metrics; see `fedrac.monitoring.progress.Watcher`.

    Args:
        shown: False: nothing is shown.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown = shown
        self._bar = tqdm(disable=True)

    def begin(self, strategy: FedRacLora, rounds: int, folder: Path | None, initial: Mapping[str, float]) -> None:
        """How many rounds there will be, and how many there were."""
        finished = strategy.finished_rounds
        self._bar = tqdm(
            desc=strategy.method.name, total=rounds, initial=finished, unit="round", disable=not self._shown
        )
        self._say(initial)

    def round(self, report: RoundReport) -> None:
        """One more; clients that did not count are named above the bar."""
        self._say(report.metrics)
        self._bar.update()

    def _say(self, metrics: Mapping[str, float]) -> None:
        if metrics:
            self._bar.set_postfix_str(show_metrics(metrics), refresh=False)

    def end(self, summary: Mapping[str, Any]) -> None:
        """The bar is full; `close` leaves it so."""

    def close(self) -> None:
        """However the run ended."""
        self._bar.close()
