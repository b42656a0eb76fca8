"""Checkpoints: the merged model for everyone, and what the run itself needs to go on.

A checkpoint is a folder, written whole beside the others and then put in its place by renaming: ``checkpoint`` is the
newest, ``checkpoint.ROUND`` are earlier ones, ``best`` is the one with the best test result. So one whole checkpoint
is there whenever the machine stops; one that is damaged is known by its checksums, and the one before it is used.

``weights.safetensors`` is a plain state dict of the merged model. ``state.json`` has the round and the checksums of
the other files. A method that carries factors also has ``carried.safetensors``: its unmerged weights and factors.
``guard.json`` is what clipping and noise carry on; it can hold the secret seed of the noise and is the owner's alone.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrac.algorithm.state import GuardState, ServerState, Spent

log = logging.getLogger(__name__)

_FACTOR = "factor/"
_WEIGHT = "weight/"


def save(folder: Path, state: ServerState, merged: Mapping[str, Tensor], keep: int = 2) -> None:
    """Writes ``folder/checkpoint`` in one step, and leaves ``keep`` - 1 earlier ones.

    Args:
        folder: the run's ``output_dir``.
        state: after the round, from which a run goes on.
        merged: the state dict (m, ...) with which the model predicts: ``weights.safetensors``.
        keep: how many checkpoints there are afterwards, at most.

    Raises:
        OSError: the disk cannot be written; the earlier checkpoint is still whole.
    """
    new, place = folder / "checkpoint.new", folder / "checkpoint"
    with _whole(new):
        new.mkdir(parents=True)
        _write(new, state, merged)
    if place.exists():
        old = _earlier(folder, _round_of(place))
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    new.rename(place)
    _prune(folder, state.round, keep)


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """A folder made anew; nothing of it is left on a disk that does not take it all.

    Raises:
        OSError: the disk does not.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"{folder.parent} does not take a checkpoint: {error}. Finished rounds are kept") from error


def mark_best(folder: Path) -> None:
    """Makes ``folder/best`` the newest whole checkpoint. The two share their files on disk."""
    new, best = folder / "best.new", folder / "best"
    with _whole(new):
        shutil.copytree(_newest(folder)[0], new, copy_function=_link)
    shutil.rmtree(best, ignore_errors=True)
    new.rename(best)


def load(folder: Path) -> ServerState:
    """The state in ``folder``, from the newest whole checkpoint; damaged ones are named in the log.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: every checkpoint there is damaged; or the newest one is, of a run with noise.
    """
    path, about = _newest(folder)
    guard = _guard(path / "guard.json") if "guard.json" in about["sha256"] else GuardState()
    if guard.spent and path != (newest := _present(folder)[0]):
        raise ValueError(
            f"the checkpoint {newest} is damaged. With guard.noise no round is done again, as clients may have seen "
            "its result, and the noise would be the same: start the run anew"
        )
    if "carried.safetensors" not in about["sha256"]:
        return ServerState(about["round"], load_file(path / "weights.safetensors"), {}, guard)
    both = load_file(path / "carried.safetensors")
    weights, factors = (
        {k.removeprefix(prefix): v for k, v in both.items() if k.startswith(prefix)} for prefix in (_WEIGHT, _FACTOR)
    )
    return ServerState(about["round"], weights, factors, guard)


def merged(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The weights with which the model predicts (a state dict), and the round after which; raises as :func:`load`."""
    path, about = _newest(folder)
    return load_file(path / "weights.safetensors"), about["round"]


def _newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint, and what its ``state.json`` says."""
    for path in _present(folder):
        if (about := _about(path)) is not None:
            return path, about
        log.warning("the checkpoint %s is damaged and is skipped", path)
    raise ValueError(f"every checkpoint in {folder} is damaged; start the run anew")


def _present(folder: Path) -> list[Path]:
    """All checkpoints, newest first; the best one comes last."""
    found = [folder / "checkpoint", *(_earlier(folder, number) for number in _rounds(folder)), folder / "best"]
    if not (found := [path for path in found if path.is_dir()]):
        raise FileNotFoundError(f"{folder} has no checkpoint: give the output_dir of a run that finished a round")
    return found


def _about(path: Path) -> dict[str, Any] | None:
    """What ``state.json`` says; None if anything is missing or not as it was written."""
    try:
        about = json.loads((path / "state.json").read_text())
        if any(_digest(path / name) != digest for name, digest in about["sha256"].items()):
            return None
        return {"round": int(about["round"]), "sha256": about["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's state.json, too
        return None


def _earlier(folder: Path, round_: int) -> Path:
    return folder / f"checkpoint.{round_}"


def _rounds(folder: Path) -> list[int]:
    """Of earlier checkpoints, the last one first."""
    numbers = [path.suffix[1:] for path in folder.glob("checkpoint.*")]
    return sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)


def _prune(folder: Path, now: int, keep: int) -> None:
    """Rounds from ``now`` on are damaged ones that were done again."""
    before = [number for number in _rounds(folder) if number < now]
    for number in set(_rounds(folder)) - set(before[: keep - 1]):
        shutil.rmtree(_earlier(folder, number), ignore_errors=True)


def _round_of(path: Path) -> int:
    """What ``state.json`` says; 0 if it is damaged."""
    try:
        return int(json.loads((path / "state.json").read_text())["round"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write(folder: Path, state: ServerState, merged: Mapping[str, Tensor]) -> None:
    _write_tensors(folder / "weights.safetensors", merged)
    if state.factors:
        parts = ((_WEIGHT, state.weights), (_FACTOR, state.factors))
        _write_tensors(folder / "carried.safetensors", {p + k: v for p, part in parts for k, v in part.items()})
    if state.guard != GuardState():
        _write_text(folder / "guard.json", asdict(state.guard), mode=0o600)
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    _write_text(folder / "state.json", {"round": state.round, "sha256": digests})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.touch()
    mode = path.stat().st_mode  # the user's; save_file would make it the owner's alone
    # Tied weights are one tensor under two names; the format wants each name to have its own memory.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    path.chmod(mode)
    _to_disk(path)


def _write_text(path: Path, values: Mapping[str, Any], mode: int | None = None) -> None:
    if mode is not None:
        path.touch(mode)
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    _to_disk(path)


def _guard(path: Path) -> GuardState:
    values = json.loads(path.read_text())
    spent = tuple(Spent(**part) for part in values.pop("spent"))
    return GuardState(**values, spent=spent)


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
