"""Which errors' texts may leave the machine on which they were raised.

A text quotes what was at fault, and that may be a record: a cell of a table, a line of a file. So nothing of an error
is told to another machine but its kind and where it was raised, unless whoever raised it gave a text to tell. Such a
text speaks of settings, names of columns that were asked for, numbers of rows, shapes; it quotes no data.
"""

import os
import platform
from types import TracebackType
from typing import TypeVar

E = TypeVar("E", bound=Exception)


def told(error: E, text: str | None = None) -> E:
    """Gives an error a text that may be told elsewhere.

    Args:
        error: as people on this machine see it.
        text: what others are told; None: the same.

    Returns:
        ``error``, to be raised.
    """
    error.told = str(error) if text is None else text  # type: ignore[attr-defined]
    return error


def text_of(error: Exception) -> str:
    """What another machine is told of an error, in one line."""
    kind = type(error).__name__
    if (text := getattr(error, "told", None)) is None:
        number = error.errno if isinstance(error, OSError) else None
        known = "" if number is None else f" ({os.strerror(number)})"
        text = f"raised in {_module(error.__traceback__)}{known}: see the log there"
    where = f" (on {platform.node()})" if isinstance(error, OSError) else ""  # files are there on some machines only
    return f"{kind}: {' '.join(text.split())}{where}"


def _module(trace: TracebackType | None) -> str:
    """The innermost module of fedrac in a traceback."""
    found = "fedrac"
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        found = name if name.startswith("fedrac.") else found
        trace = trace.tb_next
    return found
