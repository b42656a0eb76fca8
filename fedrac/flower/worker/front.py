"""In Flower's process: a message is handed to the node's worker. Imports Flower, and no PyTorch."""

import json
import logging
import multiprocessing
import os
import socket
import sys
from pathlib import Path

from filelock import FileLock
from flwr.app import Context, Message
from flwr.supercore.task_identity import TaskIdentity

from fedrac.flower.worker import channel
from fedrac.protocol import code_digest

log = logging.getLogger(__name__)

IDLE = 600  # seconds without a message after which a worker ends; `idle` of the node-config
_TRIES = 3  # workers that may die of a message


def idle_seconds(context: Context) -> int:
    """After which the node's worker ends; 0: it has none."""
    return int(context.node_config.get("idle", IDLE))


def ask(message: Message, context: Context) -> Message:
    """The worker's answer; ``context`` has the state that it left.

    Raises:
        RuntimeError: it raised, or died again and again.
        PermissionError: the socket is not this user's alone.
    """
    place = channel.folder(context.node_id)
    for _ in range(_TRIES):
        try:
            with _connected(place, idle_seconds(context)) as connection:
                channel.check_peer(connection)
                channel.send(connection, _identity(context))
                if not channel.receive(connection):  # another run's, or another fedrac; it has ended itself
                    continue
                channel.send(connection, (message, context, _task()))
                reply, left = channel.receive(connection)
        except (EOFError, ConnectionError):
            log.warning("the node's worker has died; another one is started")
            continue
        if isinstance(reply, str):
            raise RuntimeError(reply)
        context.state = left
        return reply  # type: ignore[no-any-return]
    raise RuntimeError(f"{_TRIES} workers of this node died: the node's log may say why (memory?)")


def _identity(context: Context) -> tuple[str, int, str]:
    """What a worker serves one of: code, run, and the node as its operator describes it."""
    return code_digest.digest(), context.run_id, json.dumps(dict(context.node_config), sort_keys=True)


def _task() -> tuple[int, int, int]:
    return TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id


def _connected(place: Path, idle: int) -> socket.socket:
    """A connection to the worker, started if there is none. Nobody else starts or ends one meanwhile."""
    with FileLock(place / channel.LOCK):
        path = str(place / channel.SOCKET)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            _start(place, idle)
            connection.connect(path)
        return connection


def _start(place: Path, idle: int) -> None:
    """The worker is given a socket that listens already: who connects waits until it is ready, or dies."""
    path = place / channel.SOCKET
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        listener.set_inheritable(True)
        parent = multiprocessing.parent_process()  # of what was forked for it; a fork server is not who is waited for
        owner = os.getppid() if parent is None else parent.pid
        given = [str(each) for each in (place, listener.fileno(), owner, idle)]
        os.posix_spawn(  # it outlives this process, which `subprocess` would warn of
            sys.executable,
            [sys.executable, "-P", "-m", "fedrac.flower.worker", *given],
            {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the app's folder among them
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        )
