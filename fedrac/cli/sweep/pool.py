"""Processes that share the cells of a sweep. One that dies takes one cell with it."""

import multiprocessing
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from fedrac.cli.sweep.cells import Cell
from fedrac.cli.sweep.worker import work
from fedrac.experiment import compose
from fedrac.loading.machine import cores


class Watcher(Protocol):
    """Is told what the processes do; see `fedrac.cli.sweep.worker.work` for the kinds of events."""

    def event(self, cell: Cell, kind: str, content: Any) -> None:
        """Something happened in a cell."""


@dataclass
class _Worker:
    process: BaseProcess
    connection: "Connection[Any, Any]"
    cell: Cell | None = None

    def give(self, cell: Cell | None) -> None:
        self.cell = cell
        with suppress(BrokenPipeError):  # it is dead, which is the next event
            self.connection.send(compose.to_yaml(cell.settings) if cell else None)

    def next_event(self) -> tuple[str, Any]:
        """The next event; the process's death is one."""
        try:
            event: tuple[str, Any] = self.connection.recv()
            return event
        except (EOFError, ConnectionResetError):
            self.process.join()
            return "died", f"its process ended with exit code {self.process.exitcode}{_meaning(self.process.exitcode)}"


def run_all(cells: Sequence[Cell], jobs: int, watcher: Watcher) -> None:
    """Runs the cells, ``jobs`` at a time, in this order.

    Args:
        cells: their events go to ``watcher``.
        jobs: processes, which share the cores; each runs many cells, as starting one takes seconds.
    """
    waiting = deque(cells)
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_start(jobs))
                workers[-1].give(waiting.popleft())
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                if _handle(worker, waiting, watcher):
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _handle(worker: _Worker, waiting: deque[Cell], watcher: Watcher) -> bool:
    """One event; True where the worker has no more to do."""
    kind, content = worker.next_event()
    assert worker.cell is not None
    if kind == "died":
        watcher.event(worker.cell, "failed", content)
        return True
    watcher.event(worker.cell, kind, content)
    if kind not in ("finished", "failed"):
        return False
    worker.give(waiting.popleft() if waiting else None)
    if worker.cell is None:
        worker.process.join()
    return worker.cell is None


def _start(jobs: int) -> _Worker:
    """A fresh interpreter: a fork of one that has started threads, as torch has, can hang."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    threads = max(1, cores() // jobs)
    process = context.Process(target=work, args=(theirs, threads), daemon=True)
    process.start()
    theirs.close()  # so that its end is seen here
    return _Worker(process, ours)


def _meaning(code: int | None) -> str:
    return " (killed; was there too little memory?)" if code == -9 else ""
