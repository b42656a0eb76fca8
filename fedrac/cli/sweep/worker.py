"""A process that runs one cell after another, and says how they go."""

import contextlib
import json
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fedrac.monitoring.errors import told
from fedrac.protocol.round_report import Divergence, RoundReport

Send = Callable[[tuple[str, Any]], None]


def work(connection: "Connection[Any, Any]", threads: int) -> None:
    """Receives cells as YAML until there is a None, or nobody is left to send any.

    Sends ``("round", (number, last))``, ``("log", text)``, and for every cell at its end ``("finished", summary)`` or
    ``("failed", reason)``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    import torch

    torch.set_num_threads(min(threads, torch.get_num_threads()))
    own_threads = torch.get_num_threads()
    _send_log(connection.send)
    try:
        while (text := connection.recv()) is not None:
            torch.set_num_threads(own_threads)  # a cell may have had its own number
            connection.send(outcome(text, connection.send))
    except (EOFError, BrokenPipeError):  # the first process is gone; what is finished is on disk
        sys.exit(1)


def outcome(text: str, send: Send) -> tuple[str, Any]:
    """Runs one cell, from where it stopped; returns how that ended."""
    settings = OmegaConf.create(text)
    assert isinstance(settings, DictConfig)
    error_file = Path(settings.output_dir, "error.txt")
    error_file.unlink(missing_ok=True)
    try:
        return "finished", _run(settings, send)
    except BrokenPipeError:
        raise
    except Divergence:
        summary: dict[str, Any] = json.loads(Path(settings.output_dir, "summary.json").read_text())
        return "finished", summary
    except Exception as error:  # the other cells go on
        with contextlib.suppress(OSError):  # a full disk may be what failed
            error_file.parent.mkdir(parents=True, exist_ok=True)
            error_file.write_text(traceback.format_exc())
        return "failed", told(error)


def _run(settings: DictConfig, send: Send) -> dict[str, Any]:
    from fedrac.experiment.run import in_process, run

    folder = Path(settings.output_dir)
    if (folder / "metrics.jsonl").exists():
        settings.resume = str(folder)
    return run(settings, in_process(settings), folder, _Sender(send))


class _Sender:
    """Watches a run from another process."""

    def __init__(self, send: Send) -> None:
        self._send, self._rounds = send, 0

    def begin(self, strategy: Any, rounds: int, folder: Path | None, initial: Mapping[str, float]) -> None:
        """Before the first round."""
        self._rounds = rounds

    def round(self, report: RoundReport) -> None:
        """After every round."""
        self._send(("round", (report.round, self._rounds)))

    def end(self, summary: Mapping[str, Any]) -> None:
        """The summary is sent when all is on disk."""


def _send_log(send: Send) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            send(("log", f"{record.levelname}: {record.getMessage()}"))

    logger = logging.getLogger("fedrac")
    logger.handlers = [Handler()]
    logger.setLevel(logging.INFO)
