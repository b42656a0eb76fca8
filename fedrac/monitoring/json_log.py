"""A log for programs: one line of JSON for the start of a run, for every round, and for the end."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import metrics_line, to_json


class JsonLog:
    """Tells how a run goes on standard output; see `fedrac.monitoring.progress.Watcher`."""

    def begin(self, strategy: FedRacLora, rounds: int, folder: Path | None, initial: Mapping[str, float]) -> None:
        """Where the run starts, and what it is."""
        finished = strategy.finished_rounds
        _print("begin", {"method": strategy.method.name, "finished": finished, "rounds": rounds,
                         "output_dir": folder and str(folder), **initial})  # fmt: skip

    def round(self, report: RoundReport) -> None:
        """The same as the line of ``metrics.jsonl``."""
        _print("round", metrics_line(report))

    def end(self, summary: Mapping[str, Any]) -> None:
        """The content of ``summary.json``."""
        _print("end", summary)


def _print(event: str, values: Mapping[str, Any]) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(to_json({"time": time, "event": event, **values}), flush=True)
