"""The node's process that stays: one for a run, another where run or code change or it died, none when idle."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.flower import node_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.worker import channel, front
from fedrac.protocol import code_digest

NODE = 7
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="whose process is at the other end, as Linux tells")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the node's worker; whoever serves there is ended afterwards."""
    short = Path("/tmp") / f"w{os.getpid()}"
    short.mkdir()
    monkeypatch.setattr(channel.tempfile, "gettempdir", lambda: str(short))
    yield channel.folder(NODE)
    for process in workers(short):
        os.kill(process, 9)
    subprocess.run(["rm", "-r", str(short)], check=True)


def workers(place: Path) -> list[int]:
    """Ids of the processes that serve below ``place``, by what they were started with."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"fedrac.flower.worker" in (said := line.read_bytes()) and str(place).encode() in said:
                found.append(int(line.parent.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Deployed(InProcessGrid):
    """Every message is handed on as Flower's process of a node does."""

    def __init__(self, run: int = 1, **config: int | str) -> None:
        own = {"partition-id": 0, "num-partitions": 1, "idle": 60, "policy": "open", **config}
        super().__init__(node_app.app, [own])
        (context,) = self._contexts.values()
        del context.node_config["state"]
        context.node_id, context.run_id = NODE, run


@pytest.mark.parametrize(
    "settings", [{}, {"secure": SecureSpec(True, bits=24), "guard": GuardSpec(clip=5.0)}], ids=["plain", "masked"]
)
def test_a_run_is_the_same_in_one_worker(place: Path, settings: dict[str, Any]) -> None:
    """Bit for bit; its process has the state, so that nothing is sent twice, and a node's secrets outlive a message."""
    usual, found = runs.strategy(**settings), runs.strategy(**settings)
    expected = runs.train(usual, rounds=4)
    reports: list[Any] = []
    found.start(Deployed(), runs.start(), 4, on_round=reports.append)
    runs.equal(found.effective_weights(), usual.effective_weights())
    assert [r.download_bytes for r in reports] == [r.download_bytes for r in expected]
    (process,) = workers(place)
    assert f"{place}".encode() in Path(f"/proc/{process}/cmdline").read_bytes()


def test_a_model_is_loaded_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the node's worker, whatever many rounds follow."""
    (tmp_path / "counted.py").write_text(
        "from pathlib import Path\nfrom fedrac import models\n\n"
        "def mlp(said, **arguments):\n"
        "    with Path(said).open('a') as file: file.write('loaded\\n')\n"
        "    return models.mlp(**arguments)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said, work = tmp_path / "said", runs.workload()
    work["model"] = {**work["model"], "_target_": "counted.mlp", "said": str(said)}
    strategy, start = runs.strategy(work), runs.start(work)
    said.unlink()
    strategy.start(Deployed(), start, 4)
    assert said.read_text() == "loaded\n"


def alive(run: int = 1, **config: int | str) -> None:
    """A sign of life, which needs neither model nor data."""
    grid = Deployed(run, **config)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, MessageType.QUERY)])
    assert not reply.has_error(), reply.error


def successor(place: Path, before: int) -> int:
    """The one worker that there is, when ``before`` has ended."""
    until(lambda: len(workers(place)) == 1 and workers(place) != [before])
    return workers(place)[0]


@pytest.mark.slow
def test_who_serves(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process while nothing changes; a dead one and one of another run, code or configuration are replaced."""
    alive()
    alive()
    (first,) = workers(place)
    os.kill(first, 9)
    until(lambda: not workers(place))
    alive()
    (second,) = workers(place)
    alive(run=2)
    third = successor(place, second)
    alive(run=2, idle=61)
    fourth = successor(place, third)
    monkeypatch.setattr(code_digest, "digest", lambda: "another")
    alive(run=2, idle=61)
    successor(place, fourth)


def test_an_idle_worker_ends_and_takes_its_socket_along(place: Path) -> None:
    alive(idle=1)
    until(lambda: not workers(place))
    assert not (place / channel.SOCKET).exists()
    alive(idle=1)


def test_a_worker_ends_with_the_process_that_started_it(place: Path) -> None:
    """Whatever it does: here it waits for a message."""
    owner = subprocess.Popen(["sleep", "1000"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / channel.SOCKET))
        listener.listen()
        arguments = [str(place), str(listener.fileno()), str(owner.pid), "60"]
        command = [sys.executable, "-P", "-m", "fedrac.flower.worker", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        worker = subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment)
    owner.kill()
    owner.wait()
    assert worker.wait(60) == 0


FORKING = """
import multiprocessing, sys, time
from pathlib import Path
from fedrac.flower.worker import front
if __name__ == "__main__":
    process = multiprocessing.get_context("forkserver").Process(target=front._start, args=(Path(sys.argv[1]), 600))
    process.start()
    process.join()
    print("started", flush=True)
    time.sleep(1000)
"""


def test_a_worker_ends_with_the_process_that_had_its_starter_forked(place: Path, tmp_path: Path) -> None:
    """And not with the fork server, which lives as long as one of its processes, the worker, holds its pipe."""
    script = tmp_path / "superexec.py"
    script.write_text(FORKING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen([sys.executable, script, place], env=environment, stdout=subprocess.PIPE)
    assert owner.stdout is not None and owner.stdout.readline() == b"started\n"
    assert len(workers(place)) == 1
    owner.kill()
    owner.communicate()
    until(lambda: not workers(place))


def test_a_worker_that_dies_of_every_message_is_reported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start(place: Path, idle: int) -> None:
        """One that hangs up."""
        started.append(idle)
        (place / channel.SOCKET).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place / channel.SOCKET))
            listener.listen()
            child = os.fork()
            if child == 0:
                listener.accept()
                os._exit(0)

    monkeypatch.setattr(front, "_start", start)
    grid = Deployed()
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, MessageType.QUERY)])
    assert (
        reply.has_error() and "3 workers of this node died" in reply.error.reason and len(started) >= 2
    )  # one may have been dying still


def test_what_a_worker_raises_is_raised(place: Path) -> None:
    context = Context(1, NODE, {"partition-id": 0}, RecordDict(), {})
    message = Message(RecordDict(), 1, "train.unknown")
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, NODE, 1
    with pytest.raises(RuntimeError, match="Traceback"):
        front.ask(message, context)


def test_nobody_else_can_reach_it(place: Path) -> None:
    """Folders and socket are the user's alone; a folder that is not is refused."""
    alive()
    for path in (place.parent, place):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (place / channel.SOCKET).stat().st_mode & 0o777 == 0o600
    place.chmod(0o755)
    with pytest.raises(PermissionError, match="that nobody else can open"):
        channel.folder(NODE)
    place.chmod(0o700)


def test_another_user_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    with one, other:
        channel.check_peer(one)
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(PermissionError, match="is at the other end"):
            channel.check_peer(one)


def test_flowers_process_does_without_pytorch() -> None:
    code = "import sys, json, client_app; print(json.dumps([m for m in ('torch', 'hydra', 'ray') if m in sys.modules]))"
    root = Path(front.__file__).parents[3]
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert json.loads(said.stdout) == []
