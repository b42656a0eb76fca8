"""``own.key``: by which nodes with data of their own find what their clients keep for a run, also when it goes on.

Flower counts a run that is resumed as another one, and no run may come near what another one has left with a node. So
who goes on with a run shows that he has what it began with: 128 bits of the operating system, the owner's alone.
"""

import secrets
from pathlib import Path

from fedrac.results.record import write_atomically

FILE = "own.key"


def of(folder: Path) -> str:
    """The key of the run in ``folder``, hex; made where there is none yet."""
    path = folder / FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        key = secrets.token_hex(16)
        write_atomically(path, key + "\n", mode=0o600)
        return key
