"""One whole checkpoint: the files of a state in a folder, and whether they are as they were written.

``weights.safetensors`` is a plain state dict of the merged model. ``state.json`` has the round and the checksums of
the other files. A method that carries factors also has ``carried.safetensors``: its unmerged weights and factors. So
has a run that predicts with the mean of its rounds: its last weights, with that mean in ``mean.safetensors``.
``basis.safetensors`` has the sides of two-sided blocks that are fixed for the run, ``moments.safetensors`` those of the
server's optimizer.
``clients.safetensors`` has what stays with clients that are simulated here.
``guard.json`` is what clipping and noise carry on; it can hold the secret seed of the noise and is the owner's alone.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrac.algorithm.state import GuardState, ServerState
from fedrac.protocol.mapped import apart

ABOUT = "state.json"
_WEIGHTS, _CARRIED, _GUARD = "weights.safetensors", "carried.safetensors", "guard.json"
_CLIENTS = "clients.safetensors"
_PARTS = {"basis": "basis.safetensors", "moments": "moments.safetensors", "mean": "mean.safetensors"}
_FACTOR, _WEIGHT = "factor/", "weight/"


@dataclass(frozen=True)
class About:
    """What ``state.json`` says.

    Attributes:
        round: after which the state was.
        sha256: of the other files, by name.
        until: the round that the log beside it is to be replayed to; None: to its end.
        ranks: `ServerState.ranks`.
    """

    round: int
    sha256: Mapping[str, str]
    until: int | None = None
    ranks: Mapping[int, int] = field(default_factory=dict)


def write(folder: Path, state: ServerState, merged: Mapping[str, Tensor]) -> None:
    """Makes the folder, with all files on the disk.

    Args:
        folder: is not there yet.
        state: after the round, from which a run goes on.
        merged: the state dict (m, ...) with which the model predicts.
    """
    folder.mkdir(parents=True)
    _write_tensors(folder / _WEIGHTS, merged)
    if state.factors or state.mean:
        parts = ((_WEIGHT, state.weights), (_FACTOR, state.factors))
        _write_tensors(folder / _CARRIED, {p + k: v for p, part in parts for k, v in part.items()})
    for part, name in _PARTS.items():
        if tensors := getattr(state, part):
            _write_tensors(folder / name, tensors)
    if state.clients:
        own = {f"{client}/{key}": value for client, kept in state.clients.items() for key, value in kept.items()}
        _write_tensors(folder / _CLIENTS, own)
    if state.guard != GuardState():
        _write_text(folder / _GUARD, asdict(state.guard), mode=0o600)
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    describe(folder, About(state.round, files, ranks=state.ranks))


def describe(folder: Path, about: About) -> None:
    """Writes ``state.json``, which comes last."""
    values = {name: value for name, value in asdict(about).items() if value is not None and value != {}}
    _write_text(folder / ABOUT, values)
    to_disk(folder)


def about(folder: Path, verify: bool = True) -> About | None:
    """What ``state.json`` says; None if anything is missing or, where that is looked at, not as it was written."""
    try:
        values = json.loads((folder / ABOUT).read_text())
        if verify and any(_digest(folder / name) != digest for name, digest in values["sha256"].items()):
            return None
        until = values.get("until")
        return About(int(values["round"]), values["sha256"], None if until is None else int(until), ranks_of(values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's state.json, too
        return None


def read(folder: Path, about: About) -> ServerState:
    """The state of a folder that is whole."""
    guard = GuardState()
    if _GUARD in about.sha256:
        guard = TypeAdapter(GuardState).validate_json((folder / _GUARD).read_bytes())
    parts: dict[str, Any] = {
        part: load_file(folder / name) if name in about.sha256 else {} for part, name in _PARTS.items()
    }
    parts["clients"] = by_client(load_file(folder / _CLIENTS)) if _CLIENTS in about.sha256 else {}
    parts["ranks"] = about.ranks
    if _CARRIED not in about.sha256:
        return ServerState(about.round, merged(folder), {}, guard, **parts)
    both = load_file(folder / _CARRIED)
    weights, factors = (
        {k.removeprefix(prefix): v for k, v in both.items() if k.startswith(prefix)} for prefix in (_WEIGHT, _FACTOR)
    )
    return ServerState(about.round, weights, factors, guard, **parts)


def by_client(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Tensors under ``CLIENT/KEY`` by client and key."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        client, _, key = name.partition("/")
        found.setdefault(int(client), {})[key] = value
    return found


def ranks_of(values: Mapping[str, Any]) -> dict[int, int]:
    """``ranks`` of something that comes from JSON, whose keys are text; none in what earlier versions wrote."""
    return {int(client): int(rank) for client, rank in values.get("ranks", {}).items()}


def merged(folder: Path) -> dict[str, Tensor]:
    """The weights with which the model predicts, by name in its state dict (the shapes of that)."""
    return load_file(folder / _WEIGHTS)


def to_disk(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.touch()
    mode = path.stat().st_mode  # the user's; save_file would make it the owner's alone
    save_file(apart(tensors), path)
    path.chmod(mode)
    to_disk(path)


def _write_text(path: Path, values: Mapping[str, Any], mode: int | None = None) -> None:
    if mode is not None:
        path.touch(mode)
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    to_disk(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
