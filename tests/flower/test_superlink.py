"""Starting, failing and ending of runs on a SuperLink of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedrac.flower import superlink as own_superlink

ROOT = Path(__file__).parents[2]


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


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's
def test_an_app_is_what_flower_packs_of_a_project(tmp_path: Path) -> None:
    """Whatever else lies in the project: it is not even looked at."""
    wanted = {"fedrac/__init__.py", "fedrac/flower/host.py", "server_app/app.py", "client_app/app.py", "conf/a/b.yaml"}
    project, app = tmp_path / "project", tmp_path / "app"
    for name in (*wanted, "fedrac/notes.txt", ".venv/fedrac/host.py", "other.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(f"# {name}")
    shutil.copy(ROOT / "pyproject.toml", project)
    assert own_superlink.copy_app(project, app) == app
    assert {str(path.relative_to(app)) for path in app.rglob("*") if path.is_file()} == {"pyproject.toml", *wanted}
    assert build_fab_from_disk(app) == build_fab_from_disk(project)


@pytest.mark.parametrize("text", [None, "[project]\nname = 'another'"])
def test_a_folder_without_an_app_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    done = subprocess.run([sys.executable, "-m", "fedrac.flower"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and f"{tmp_path} has no pyproject.toml that says what Flower packs" in done.stderr
    assert "go to the folder of fedrac's repository" in done.stderr


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
