"""Starting, failing and ending of runs on a SuperLink of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrac.flower import superlink as own_superlink


def test_a_superlink_leaves_nothing_behind() -> None:
    with own_superlink.superlink_environment() as environment:
        home = Path(environment["FLWR_HOME"])
        port = int((home / "config.toml").read_text().split('"')[-2].split(":")[1])
        socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert not home.exists()


def test_a_superlink_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_superlink, "START_SECONDS", 0)
    with pytest.raises(RuntimeError, match="did not start"), own_superlink.superlink_environment():
        pass


def test_a_failed_run_is_told_by_the_exit_code(superlink: dict[str, str], app_dir: Path) -> None:
    assert own_superlink.run_app(superlink, app_dir, "no_such_key=1", supernodes=1) != 0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_an_interrupted_run_leaves_nothing_behind(app_dir: Path, tmp_path: Path) -> None:
    mark = f"FEDRAC_MARK={tmp_path}"
    command = [sys.executable, "-m", "fedrac.flower", "--supernodes=1", "rounds=100000", f"output_dir={tmp_path}"]
    environment = {**os.environ, **dict([mark.split("=", 1)])}
    # As at a terminal: in the foreground, whatever this process does with Ctrl-C.
    process = subprocess.Popen(
        command,
        cwd=app_dir,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    _wait_for(lambda: any("ray::ClientAppActor" in name for name in _marked(mark)))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    _wait_for(lambda: not _marked(mark), seconds=5)


def _marked(mark: str) -> list[str]:
    """The command lines of the processes that have the mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:  # it has ended meanwhile
            continue
    return found


def _wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
