"""A SuperNode that looks for messages soon after its last answer, and starts processes for them fast."""

import inspect
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flwr.supernode import start_client_internal

from fedrac.flower import supernode


def test_looks_are_soon_after_an_answer_and_rare_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [1000.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(supernode.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supernode.time, "sleep", sleep)
    clock = supernode.PromptClock()
    clock.sleep(0.5)  # the answer is made
    for _ in range(60):
        clock.sleep(3)
    assert slept[:3] == [0.1, 0.3, 0.3] and slept[-1] == 3
    clock.sleep(0.5)
    clock.sleep(3)
    assert slept[-2:] == [0.1, 0.3]
    assert clock.time is time.time


def test_it_is_flowers_command_with_another_clock_and_its_own_superexec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop sleeps by the name that is replaced: half a second for an answer, three for a message. It starts one
    process, by the name that is replaced.
    """
    assert start_client_internal.time is time and start_client_internal.subprocess is subprocess
    source = inspect.getsource(start_client_internal)
    assert source.count("time.sleep(3)") == 1 and "time.sleep(0.5)" in source
    assert source.count("subprocess.") == 1 and "subprocess.Popen(command)" in source
    for name, module in (("time", time), ("subprocess", subprocess)):
        monkeypatch.setattr(start_client_internal, name, module)  # undone afterwards
    started: list[object] = []
    monkeypatch.setattr(supernode, "flower_supernode", lambda: started.append(start_client_internal.time))
    supernode.main()
    assert isinstance(started[0], supernode.PromptClock)
    command = ["flower-superexec", "--version"]
    with start_client_internal.subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.args == [sys.executable, "-P", supernode.__file__, *command]
        assert "Flower version" in str(process.stdout.read())


SUPEREXEC = """
import multiprocessing, supernode
if __name__ == "__main__":
    forks = supernode.Forks()
    forks.Popen(["flwr-clientapp", "--help"])
    (child,) = multiprocessing.active_children()
    child.join()
    print("ended with", child.exitcode, flush=True)
    forks.Popen(["echo", "another command"])
    assert not multiprocessing.active_children()
"""


def test_a_message_is_answered_by_a_fork(tmp_path: Path) -> None:
    """By Flower's command, with its arguments; the process has no fedrac but the one that comes with the app."""
    shutil.copy(supernode.__file__, tmp_path)
    (tmp_path / "fedrac.py").write_text("raise SystemExit('fedrac was imported')")
    (tmp_path / "superexec.py").write_text(SUPEREXEC)
    command, environment = [sys.executable, "superexec.py"], {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Run a Flower ClientApp" in done.stdout and "--token" in done.stdout
    assert "ended with 0" in done.stdout and "another command" in done.stdout and not done.stderr
