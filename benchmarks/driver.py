"""Starts sides, asks them in turn, and watches their memory."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = {name: ROOT / f".venv-{name}/bin/python" for name in ("pfl", "jax")}  # each in an environment of its own
PAGE = os.sysconf("SC_PAGE_SIZE")


def environment() -> dict[str, str]:
    """Data and partitions are made once and kept beside the benchmarks."""
    return {"FEDRAC_CACHE": str(ROOT / "benchmarks/cache"), **os.environ, "PYTHONPATH": str(ROOT)}


class Memory:
    """The largest memory of a session's processes: all that is resident, and without pages mapped from files.

    What several processes share counts in each.
    """

    def __init__(self, session: int, leader: bool) -> None:
        self._session, self._leader = session, leader
        self.resident = self.private = 0

    @contextmanager
    def watched(self, every: float) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=lambda: self._watch(stop, every))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _watch(self, stop: threading.Event, every: float) -> None:
        while not stop.wait(every):
            pages = [self._pages(pid) for pid in self._members()]
            self.resident = max(self.resident, PAGE * sum(all_ for all_, _ in pages))
            self.private = max(self.private, PAGE * sum(all_ - shared for all_, shared in pages))

    def _members(self) -> list[int]:
        """Processes of the session; its leader alone where that is the whole of it."""
        if self._leader:
            return [self._session]
        found = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return [pid for pid in found if pid != self._session and _session_of(pid) == self._session]

    @staticmethod
    def _pages(pid: int) -> tuple[int, int]:
        try:
            _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
        except OSError:  # it has ended
            return 0, 0
        return int(resident), int(shared)


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


class Worker:
    """A side in a process of its own."""

    def __init__(self, side: str, workload: str, device: str) -> None:
        self.side, self.workload, self.device, self.threads = side, workload, device, 1
        self.begin, self.log = time.monotonic(), TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(PEERS.get(side, sys.executable)), "-m", "benchmarks.worker", side, workload, device],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )
        self.memory = Memory(self.process.pid, leader=not self.is_flower)

    @property
    def is_flower(self) -> bool:
        return self.side.startswith("flower")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer.

        Raises:
            RuntimeError: the side failed; the text ends with its log.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            self.log.seek(0)
            raise RuntimeError(f"{self.workload} {self.side}: {self.log.read()[-3000:].decode(errors='replace')}")
        return json.loads(line)

    def run(self, rounds: int, threads: int | None = None) -> dict[str, Any]:
        with self.memory.watched(0.3 if self.is_flower else 0.02):
            return self.ask(rounds=rounds, threads=threads or self.threads)

    def close(self) -> None:
        """Ends the process, and with it whatever it started."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
