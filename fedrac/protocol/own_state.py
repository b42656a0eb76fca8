"""What stays with a client between rounds: where it is kept, and how a simulated client gets it back.

A node with data of its own is one client: it keeps its factors itself, in memory, and on its disk where it keeps its
state. Clients that a host simulates have theirs from the server beside it, in messages that no client would send, and
that do not count; there they are part of checkpoints.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedrac.protocol.messages import Shapes, from_record, pack, to_record, unpack
from fedrac.protocol.records import find

NAME, KEY = "own", "own_key"
Own = Mapping[int, Mapping[str, Tensor]]  # by client and `Block.key`
_VERSIONS = 2  # a server that goes on after a stop may ask for the last round again


def encode(own: Own) -> ArrayRecord:
    """The factors of each client, one after another, (N,), under its id."""
    return to_record({str(client): pack(factors) for client, factors in own.items()})


def decode(record: ArrayRecord, shapes: Shapes, clients: Sequence[int]) -> dict[int, dict[str, Tensor]]:
    """The inverse, for those ``clients`` that it has.

    Raises:
        ValueError: another client's, or numbers that are not those of ``shapes``, or not finite.
    """
    size = sum(torch.Size(shape).numel() for shape in shapes.values())
    found: dict[int, dict[str, Tensor]] = {}
    for name, packed in from_record(record).items():
        if name not in {str(client) for client in clients}:
            raise ValueError(f"field own is of client {name}, which was not asked")
        if tuple(packed.shape) != (size,) or not packed.is_floating_point():
            raise ValueError(f"field own is {packed.dtype} {tuple(packed.shape)}, expected {size} numbers")
        if not bool(torch.isfinite(packed).all()):
            raise ValueError("field own is not finite")
        found[int(name)] = unpack(packed, shapes)
    return found


def key_record(key: str) -> ConfigRecord:
    """What tells a node by which ``key`` its client's factors are found (`fedrac.results.own_key`)."""
    return ConfigRecord({"key": key})


def filed_under(content: RecordDict, run: str) -> str:
    """By which name a node keeps its client's factors: that of the message's key, or of the run if it has none.

    Files have a digest of the key: who sees them cannot go on with the run.
    """
    said = find(content, KEY, ConfigRecord)
    if said is None or not (key := said.get("key")):
        return run
    return hashlib.sha256(str(key).encode()).hexdigest()[:32]


class NodeOwn:
    """What the one client of a node keeps.

    Args:
        memory: the node's records, which Flower keeps between the messages of a run.
        folder: on a disk that outlives the process; None: it keeps no files.
        run: by which files are named.
    """

    def __init__(self, memory: RecordDict, folder: Path | None, run: str) -> None:
        self._memory, self._folder, self._run = memory, folder and folder / NAME, run

    def before(self, round_: int) -> dict[str, Tensor]:
        """By `Block.key`, as the client left it in the last round before ``round_``; empty: it has not trained."""
        versions = {int(name): name for name in self._memory.array_records if name.isdigit()}
        if known := [number for number in versions if number < round_]:
            return from_record(self._memory.array_records[versions[max(known)]])
        for path in reversed(self._files()):
            if int(path.stem.rpartition("-")[2]) < round_:
                with contextlib.suppress(OSError, SafetensorError):
                    return load_file(path)
        return {}

    def keep(self, round_: int, factors: Mapping[str, Tensor]) -> None:
        """After the client has trained in ``round_``; later rounds than this are done again.

        Raises:
            OSError: the disk does not take it.
        """
        for name in [name for name in self._memory.array_records if name.isdigit()]:
            if int(name) >= round_ or int(name) < self._oldest(round_):
                del self._memory[name]
        self._memory[str(round_)] = to_record(factors)
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._files():
            if int(path.stem.rpartition("-")[2]) >= round_:
                path.unlink()
        place = self._folder / f"{self._run}-{round_:08d}.safetensors"
        part = place.with_suffix(".part")
        part.write_bytes(save({key: value.contiguous() for key, value in factors.items()}))
        part.replace(place)
        for path in self._files()[:-_VERSIONS]:
            path.unlink(missing_ok=True)

    def _oldest(self, round_: int) -> int:
        """Of the versions in memory that are kept beside that of ``round_``."""
        known = sorted(int(name) for name in self._memory.array_records if name.isdigit() and int(name) < round_)
        return known[-(_VERSIONS - 1)] if known else 0

    def _files(self) -> list[Path]:
        """Of this run, in order of their rounds."""
        return sorted(self._folder.glob(f"{self._run}-*.safetensors")) if self._folder else []
