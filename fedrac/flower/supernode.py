"""``flower-supernode`` that looks for messages soon after it has answered one: ``python -m fedrac.flower.supernode``.

Flower's own waits three seconds after each look in vain, most of a round of a small model. This one waits a tenth of
the time since its last answer, three seconds at most; `fedrac.flower.prompt_grid` does the same on the server. It is a
script that needs Flower alone: the image of nodes has it without fedrac.
"""

import time
from typing import Any

from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode

_LOCAL, _LEAST, _SHARE = 0.1, 0.3, 0.1  # a look costs the SuperLink about 10 ms of CPU time


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


def main() -> None:
    """Flower's command, with its arguments."""
    start_client_internal.time = PromptClock()  # type: ignore[attr-defined, assignment]
    flower_supernode()


if __name__ == "__main__":
    main()
