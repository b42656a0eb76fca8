"""Checkpoints: the merged model for everyone, and what the run itself needs to go on.

A checkpoint is a folder, written beside the old one and then put in its place, so that one whole checkpoint is there
whenever the machine stops: ``checkpoint``, or ``checkpoint.old`` between the two renames.

``weights.safetensors`` is a plain state dict of the merged model. ``state.json`` has the round and the checksums of
the other files. A method that carries factors also has ``carried.safetensors``: its unmerged weights and factors.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrac.server import ServerState

_FACTOR = "factor/"
_WEIGHT = "weight/"


def save(folder: Path, state: ServerState, merged: Mapping[str, Tensor]) -> None:
    """Writes ``folder/checkpoint`` in one step."""
    new, place, old = (folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    _write(new / "weights.safetensors", dict(merged))
    if state.factors:
        carried = {_WEIGHT + k: v for k, v in state.weights.items()} | {
            _FACTOR + k: v for k, v in state.factors.items()
        }
        _write(new / "carried.safetensors", carried)
    digests = {path.name: _digest(path) for path in sorted(new.iterdir())}
    (new / "state.json").write_text(json.dumps({"round": state.round, "sha256": digests}, indent=2) + "\n")
    _to_disk(new / "state.json")
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> ServerState:
    """The state in ``folder``, from the newest whole checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: every checkpoint there is damaged.
    """
    path, round_ = _newest(folder)
    if not (path / "carried.safetensors").exists():
        return ServerState(round_, load_file(path / "weights.safetensors"), {})
    both = load_file(path / "carried.safetensors")
    weights = {k.removeprefix(_WEIGHT): v for k, v in both.items() if k.startswith(_WEIGHT)}
    return ServerState(round_, weights, {k.removeprefix(_FACTOR): v for k, v in both.items() if k.startswith(_FACTOR)})


def merged(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The weights with which the model predicts, and the round after which; raises as :func:`load`."""
    path, round_ = _newest(folder)
    return load_file(path / "weights.safetensors"), round_


def _newest(folder: Path) -> tuple[Path, int]:
    """The newest whole checkpoint and its round."""
    found = [path for name in ("checkpoint", "checkpoint.old") if (path := folder / name).is_dir()]
    if not found:
        raise FileNotFoundError(f"{folder} has no checkpoint: give the output_dir of a run that finished a round")
    for path in found:
        if (round_ := _round(path)) is not None:
            return path, round_
    raise ValueError(f"the checkpoint in {folder} is damaged; start the run anew")


def _round(path: Path) -> int | None:
    """The round of a whole checkpoint; None if it is damaged."""
    try:
        about = json.loads((path / "state.json").read_text())
        if any(_digest(path / name) != digest for name, digest in about["sha256"].items()):
            return None
        return int(about["round"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's state.json, too
        return None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    # Tied weights are one tensor under two names; the format wants each name to have its own memory.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    _to_disk(path)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
