"""``flower-supernode`` that loses little time between messages: ``python -m fedrac.flower.supernode``.

- Flower's own waits three seconds after each look in vain, most of a round of a small model. This one waits a tenth of
  the time since its last answer, three seconds at most; `fedrac.flower.prompt_grid` does the same on the server.
- Flower starts a process for every message, which imports Flower first, for more than a second of CPU time. Here the
  process is forked off one that has imported it, and nothing else.

It is a script that needs Flower alone: the image of nodes has it without fedrac.
"""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.superexec.executor import subprocess_executor
from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

_LOCAL, _LEAST, _SHARE = 0.1, 0.3, 0.1  # a look costs the SuperLink about 10 ms of CPU time
_SUPEREXEC, _CLIENTAPP = "flower-superexec", "flwr-clientapp"


class PromptClock:
    """Flower's ``time`` in the loop of a SuperNode, but for how long it sleeps."""

    def __init__(self) -> None:
        self._answered = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Of two kinds: for the answer, which is on this machine, and, the longer ones, for the next message."""
        if seconds < 1:
            time.sleep(min(seconds, _LOCAL))
            self._answered = time.monotonic()
            return
        waited = time.monotonic() - self._answered
        time.sleep(min(max(_SHARE * waited, _LEAST), seconds))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Starts:
    """Flower's ``subprocess`` where a SuperNode starts its SuperExec: this script is one, too."""

    def Popen(self, command: Sequence[str], **options: Any) -> Any:
        """Without this script's folder, where modules are named as an app's, in the path."""
        own = [sys.executable, "-P", __file__] if command[0] == _SUPEREXEC else []
        return subprocess.Popen([*own, *command], **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


class Forks:
    """Flower's ``subprocess`` where a SuperExec starts a process for a message."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([flwr_clientapp.__module__])

    def Popen(self, command: Sequence[str], **options: Any) -> None:
        """Flower leaves it alone from then on: it ends when the message is answered, and when the SuperExec is gone."""
        if command[0] != _CLIENTAPP:
            subprocess.Popen(command, **options)
            return
        self._context.Process(target=answer, args=(command,)).start()

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def answer(command: Sequence[str]) -> None:
    """Flower's ``flwr-clientapp``, in a process of its own."""
    sys.argv = list(command)
    flwr_clientapp()


def main() -> None:
    """Flower's command, with its arguments; or, when Flower calls for it, its SuperExec."""
    if sys.argv[1:2] == [_SUPEREXEC]:
        sys.argv = sys.argv[1:]
        subprocess_executor.subprocess = Forks()  # type: ignore[attr-defined, assignment]
        flower_superexec()
        return
    start_client_internal.time = PromptClock()  # type: ignore[attr-defined, assignment]
    start_client_internal.subprocess = Starts()  # type: ignore[attr-defined, assignment]
    flower_supernode()


if __name__ == "__main__":
    main()
