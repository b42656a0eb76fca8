"""One process at a time that writes into a folder; readers need no lock."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Makes the folder and keeps it for this process; the lock ends with the process, however it ends.

    Where nothing has been written by the end, the folder is gone again.

    Args:
        folder: which may be there already.
        what: is done there, for the message.

    Raises:
        BlockingIOError: another process has it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    try:
        with FileLock(path, timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()  # nobody waits for it, and who opened it meanwhile sees that it is gone
                    for place in made:
                        place.rmdir()  # unless it holds something now
    except Timeout:
        raise BlockingIOError(f"{folder} is in use: another process {what}") from None
