"""Which fedrac this is: a host on another machine may have another one than the server."""

import hashlib
import platform
from functools import lru_cache
from pathlib import Path

from fedrac.loading.told import told


@lru_cache
def digest() -> str:
    """SHA-256 (hex) of the package's source: equal where the same code runs, however it came there."""
    root, sha = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        for part in (path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")):
            sha.update(part.encode() + b"\0")
    return sha.hexdigest()


def check(server: str) -> None:
    """Refuses to work for a server with another fedrac: the result would be a mixture of two programs.

    Raises:
        ValueError: ``server``, its digest, is not the one of this process.
    """
    if server != digest():
        raise told(ValueError(f"fedrac on {platform.node()} is not the server's: install the same on all machines"))
