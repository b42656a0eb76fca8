"""Arrays on disk, computed once and mapped into every process that asks again.

An entry is a folder: a .npy file for each array and a manifest. It is written under another name and renamed
when complete, so that readers see all of it or nothing, and two processes that write the same entry both
succeed.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.loading.told import told

Arrays = dict[str, NDArray[Any]]

FORMAT = 2  # raise it when what a loader or a partition scheme computes changes: older entries are then ignored
_BLOCK, _BLOCKS = 2**16, 64


def root() -> Path:
    """The folder of all entries: ``$FEDRAC_CACHE``, else ``$XDG_CACHE_HOME/fedrac``, else ``~/.cache/fedrac``."""
    if chosen := os.environ.get("FEDRAC_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedrac"


def key(name: str, arguments: Mapping[str, Any], files: Sequence[Path] = ()) -> str:
    """SHA-256 (hex) of everything that an entry's arrays follow from.

    Args:
        name: the function that computes them, e.g. ``"mnist.idx"``.
        arguments: all of its arguments; anything that JSON or ``str`` can write.
        files: files that it reads. Their paths, sizes and times of change stand for their contents.

    Raises:
        FileNotFoundError: one of the files is not there.
    """
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([name, FORMAT, dict(arguments), stats], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def arrays(key: str, build: Callable[[], Mapping[str, NDArray[Any]]]) -> Arrays:
    """The arrays of entry ``key`` as read-only memory maps; ``build()`` computes them where they are not
    there.

    An entry that is damaged is built again.

    Raises:
        OSError: the cache folder cannot be written.
    """
    entry = root() / key
    return _open(entry) or _store(entry, build())


def _store(entry: Path, built: Mapping[str, NDArray[Any]]) -> Arrays:
    folder = entry.with_name(f".{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True)
        _write(folder, built)
        # Mapped before the move: whatever another process then does to the entry, these maps stay whole.
        opened = _open(folder)
        _publish(folder, entry)
    except OSError as error:
        why = error.strerror or "No space left on device"  # NumPy says only how many bytes were written
        wrong = f"the cache folder {entry.parent} cannot be written ({why}): set FEDRAC_CACHE to a folder that can"
        raise told(OSError(wrong)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if opened is None:
        wrong = f"what was written to {entry.parent} did not read back: check the disk, or set FEDRAC_CACHE"
        raise told(OSError(wrong))
    return opened


def _write(folder: Path, built: Mapping[str, NDArray[Any]]) -> None:
    manifest = []
    for number, (name, array) in enumerate(built.items()):
        path = folder / f"{number}.npy"  # names of arrays may hold what names of files may not
        with path.open("wb") as file:
            np.save(file, np.asarray(array, order="C"), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        manifest.append({"name": name, "file": path.name, "bytes": path.stat().st_size, "crc": _crc(path)})
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _publish(folder: Path, entry: Path) -> None:
    if entry.exists() and _open(entry) is None:  # damaged: out of the way in one step
        damaged = folder.with_suffix(".damaged")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            entry.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        folder.rename(entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # those two: another process's entry is there, and as good as ours


def _open(entry: Path) -> Arrays | None:
    try:
        manifest = json.loads((entry / "manifest.json").read_bytes())
        return {item["name"]: _map(entry / item["file"], item["bytes"], item["crc"]) for item in manifest}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map(path: Path, size: int, crc: int) -> NDArray[Any]:
    if path.stat().st_size != size or _crc(path) != crc:
        raise ValueError(f"{path} is damaged")
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _crc(path: Path) -> int:
    """Checksum of at most 64 blocks of 64 KiB, evenly spread: it takes no longer for larger files."""
    size, crc = path.stat().st_size, 0
    last = max(size - _BLOCK, 0)
    steps = min(-(-size // _BLOCK), _BLOCKS) - 1
    with path.open("rb") as file:
        for step in range(steps + 1):
            file.seek(step * last // max(steps, 1))
            crc = zlib.crc32(file.read(_BLOCK), crc)
    return crc
