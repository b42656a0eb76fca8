"""The worker: ``python -m fedrac.flower.worker FOLDER LISTENER OWNER IDLE``. `fedrac.flower.worker.front` starts it."""

import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from flwr.supercore.task_identity import TaskIdentity

from fedrac.flower.worker import channel
from fedrac.protocol import processes

log = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds for who connects to say what he wants


class Worker:
    """Answers the messages of one run, one after another.

    Args:
        place: the folder of its socket.
        listener: listens there.
        idle: seconds without a message after which it ends.
    """

    def __init__(self, place: Path, listener: socket.socket, idle: float) -> None:
        from fedrac.flower.client_app import app

        self._app, self._place, self._listener, self._idle = app, place, listener, idle
        self._serves: Any = None  # one code, run and configuration; None: the first that asks

    def run(self) -> None:
        """Until it is idle, or another run or code is asked for."""
        self._listener.settimeout(self._idle)
        while True:
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                if self._leave():
                    self._idle = 0.0
                self._listener.settimeout(self._idle)
                continue
            except BlockingIOError:  # it has left, and nobody who came before waits
                return
            with connection:
                if not self._answer(connection):
                    return

    def _answer(self, connection: socket.socket) -> bool:
        """Answers a message; False: it is for another worker, and this one has made room."""
        try:
            channel.check_peer(connection)
            connection.settimeout(_PATIENCE)
            wanted = channel.receive(connection)
            self._serves = self._serves or wanted
            if wanted != self._serves:
                self._listener.close()
                (self._place / channel.SOCKET).unlink(missing_ok=True)
                channel.send(connection, False)
                return False
            channel.send(connection, True)
            connection.settimeout(None)
            channel.send(connection, self._reply(*channel.receive(connection)))
        except (EOFError, OSError) as error:  # Flower's process was ended
            log.warning("a message is left: %s", error)
        return True

    def _reply(self, message: Any, context: Any, task: tuple[int, int, int]) -> tuple[Any, Any]:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = task
        try:
            return self._app(message, context), context.state
        except Exception:
            return traceback.format_exc(), None

    def _leave(self) -> bool:
        """Takes the socket away, so that who comes starts another worker; not while somebody is connecting."""
        try:
            with FileLock(self._place / channel.LOCK, timeout=0):
                (self._place / channel.SOCKET).unlink(missing_ok=True)
        except Timeout:
            return False
        return True


def end_with(owner: int) -> None:
    """This process ends when the process ``owner`` does, whatever it is doing."""
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        os._exit(0)

    def watch() -> None:
        select.select([handle], [], [])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(place: str, listener: str, owner: str, idle: str) -> None:
    """Serves until it is idle."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with(int(owner))
    processes.stay()
    Worker(Path(place), socket.socket(fileno=int(listener)), float(idle)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
