"""How an error ends a command: in its own words and a non-zero exit, whatever raised it; with no traceback."""

import logging
import os
import sys
import traceback

# Their messages are written for people, or say what a person can mend: a value, a file, a full disk.
_CLEAR = (ValueError, OSError, RuntimeError)


class RunFailed(RuntimeError):
    """A run has ended by an error, which its message tells."""


def told(error: Exception) -> str:
    """What a person is told of an error. With ``FEDRAC_TRACEBACK=1`` the traceback is printed before.

    One that nobody wrote a message for, such as a defect or an error of a function of one's own, names its kind and the
    place where it was raised.
    """
    if os.environ.get("FEDRAC_TRACEBACK"):
        traceback.print_exception(error, file=sys.stderr)
    text = str(error) or type(error).__name__
    if isinstance(error, _CLEAR):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno}; FEDRAC_TRACEBACK=1 shows all)" if frames else ""
    return f"{type(error).__name__}: {' '.join(text.split())}{place}"


class OneLine(logging.Filter):
    """Of a log of Flower: leaves out the traceback of a `RunFailed`, which says all that there is to say."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record; it is always logged."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, RunFailed):
            record.msg, record.args, record.exc_info = "error: %s", (str(error),), None
        return True
