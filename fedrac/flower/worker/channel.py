"""Values between two processes of one user, over a Unix socket in a folder that nobody else can open."""

import hashlib
import os
import pickle
import socket
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

SOCKET, LOCK = "socket", "lock"
_LENGTH = struct.Struct("<Q")
_CREDENTIALS = struct.Struct("3i")  # of the peer: process, user, group


def available() -> bool:
    """Whether the system tells whose process is at the other end: Linux."""
    return hasattr(socket, "SO_PEERCRED")


def folder(node: int) -> Path:
    """Of a node's worker.

    Raises:
        PermissionError: others can open it, or it is somebody else's.
    """
    root = Path(tempfile.gettempdir()) / f"fedrac-{os.getuid()}"  # a socket's path has at most 107 characters
    place = root / hashlib.sha256(str(node).encode()).hexdigest()[:16]
    for each in (root, place):
        each.mkdir(mode=0o700, exist_ok=True)
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{each} must be a folder of this user that nobody else can open: remove it")
    return place


def check_peer(connection: socket.socket) -> None:
    """
    Raises:
        PermissionError: the process at the other end is another user's.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    if user != os.getuid():
        raise PermissionError(f"process {process} of user {user} is at the other end of a node's socket")


def send(connection: socket.socket, value: Any) -> None:
    """
    Raises:
        ConnectionError: the other end has gone.
    """
    content = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_LENGTH.pack(len(content)))
    connection.sendall(content)


def receive(connection: socket.socket) -> Any:
    """What the other end has sent, whose user `check_peer` has looked at.

    Raises:
        EOFError, ConnectionError: the other end has gone.
    """
    (length,) = _LENGTH.unpack(_bytes(connection, _LENGTH.size))
    return pickle.loads(_bytes(connection, length))


def _bytes(connection: socket.socket, length: int) -> bytearray:
    content = bytearray(length)
    view, got = memoryview(content), 0
    while got < length:
        count = connection.recv_into(view[got:])
        if not count:
            raise EOFError("the other end has gone")
        got += count
    return content
