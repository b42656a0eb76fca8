"""Checkpoints: the merged model for everyone, and what the run itself needs to go on.

A checkpoint is a folder: a state that was written whole (`fedrac.results.snapshot`) and the rounds since
(`fedrac.results.round_log`), which a reader replays. ``checkpoint`` is the newest, ``checkpoint.ROUND`` are earlier
ones by the round of their whole state, ``best`` is the one with the best test result. A folder is written beside the
others and then put in its place by renaming, so one is there whenever the machine stops; one that is damaged is known
by its checksums, and the one before it is used.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from fedrac.algorithm.state import ServerState
from fedrac.protocol.replay import FinishedRound, Replay
from fedrac.results import round_log, snapshot
from fedrac.results.round_log import Log
from fedrac.results.snapshot import About

log = logging.getLogger(__name__)


def save(folder: Path, state: ServerState, merged: Mapping[str, Tensor], keep: int = 2) -> None:
    """Writes ``folder/checkpoint`` whole, in one step, and leaves ``keep`` - 1 earlier ones.

    Args:
        folder: the run's ``output_dir``.
        state: after the round, from which a run goes on.
        merged: the state dict (m, ...) with which the model predicts: ``weights.safetensors``.
        keep: how many checkpoints there are afterwards, at most.

    Raises:
        OSError: the disk cannot be written; the earlier checkpoint is still whole.
    """
    new, place = folder / "checkpoint.new", folder / "checkpoint"
    with _written(new):
        snapshot.write(new, state, merged)
    if place.exists():
        old = _earlier(folder, _round_of(place))
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    new.rename(place)
    snapshot.to_disk(folder)
    _prune(folder, state.round, keep)


def append(folder: Path, replay: Replay, rounds: Sequence[FinishedRound]) -> int:
    """Adds the rounds since to ``folder/checkpoint``, which this process has written whole; returns their bytes.

    Raises:
        OSError: the disk cannot be written. What was there before counts; the next one must be written whole.
    """
    try:
        return round_log.append(folder / "checkpoint", replay, rounds)
    except OSError as error:
        raise _does_not_take(folder, error) from error


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """A folder made anew; nothing of it is left on a disk that does not take it all.

    Raises:
        OSError: the disk does not.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _does_not_take(folder.parent, error) from error


def _does_not_take(folder: Path, error: Exception) -> OSError:
    return OSError(f"{folder} does not take a checkpoint: {error}. Finished rounds are kept")


def mark_best(folder: Path, round_: int | None = None) -> None:
    """Makes ``folder/best`` the newest checkpoint, as it is now. The two share their files on disk.

    Args:
        folder: the run's ``output_dir``.
        round_: the newest checkpoint's, where this process wrote it; None: it is looked for, and must be sound.
    """
    source, about, new = folder / "checkpoint", None, folder / "best.new"
    if round_ is not None:
        about = snapshot.about(source, verify=False)
    if about is None:
        source, about = _newest(folder)
        round_ = _last(round_log.read(source, about.until), about)
    left_out = [snapshot.ABOUT, *([round_log.FILE] if round_ == about.round else [])]
    with _written(new):
        shutil.copytree(source, new, copy_function=_link, ignore=shutil.ignore_patterns(*left_out))
        snapshot.describe(new, replace(about, until=None if round_ == about.round else round_))
    _put_best(folder)


def complete_best(folder: Path) -> None:
    """Writes ``folder/best`` whole, if it is not. ``checkpoint`` is."""
    best, newest = snapshot.about(folder / "best", verify=False), snapshot.about(folder / "checkpoint", verify=False)
    if best is None or best.until is None:
        return
    if newest is not None and newest.round == best.until:
        mark_best(folder, newest.round)
        return
    if (best := snapshot.about(folder / "best")) is None:
        log.warning("the checkpoint %s is damaged", folder / "best")
        return
    found = _replayed(folder / "best", best)
    with _written(folder / "best.new"):
        snapshot.write(folder / "best.new", found.state, found.merged())
    _put_best(folder)


def _put_best(folder: Path) -> None:
    shutil.rmtree(folder / "best", ignore_errors=True)
    (folder / "best.new").rename(folder / "best")


def recover(folder: Path) -> None:
    """Before a run goes on: finishes what was under way when the machine stopped."""
    new = folder / "best.new"
    if new.exists() and not (folder / "best").exists() and snapshot.about(new) is not None:
        new.rename(folder / "best")
    for unfinished in (new, folder / "checkpoint.new"):
        shutil.rmtree(unfinished, ignore_errors=True)


def load(folder: Path) -> ServerState:
    """The state in ``folder``, from the newest sound checkpoint; damaged ones are named in the log.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: every checkpoint there is damaged; or the newest one is, of a run with noise; or the rounds since
            cannot be replayed on this machine.
    """
    found = _read(folder)
    if found.state.guard.spent and (found.path != (newest := _present(folder)[0]) or found.log.damaged):
        raise ValueError(
            f"the checkpoint {newest} is damaged. With guard.noise no round is done again, as clients may have seen "
            "its result, and the noise would be the same: start the run anew"
        )
    return found.state


def merged(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The weights with which the model predicts (a state dict), and the round after which; raises as :func:`load`."""
    found = _read(folder)
    return found.merged(), found.state.round


def whole_round(folder: Path) -> int:
    """The round of the newest checkpoint that was written whole; 0 if there is none."""
    return _round_of(folder / "checkpoint")


@dataclass(frozen=True)
class _Found:
    """A checkpoint with its log replayed."""

    path: Path
    state: ServerState
    log: Log

    def merged(self) -> dict[str, Tensor]:
        if self.log.rounds and self.log.replay:
            return self.log.replay.merged(self.state)
        return snapshot.merged(self.path) if self.state.factors or self.state.mean else dict(self.state.weights)


def _read(folder: Path) -> _Found:
    path, about = _newest(folder)
    with suppress(FileNotFoundError):
        found = _replayed(path, about)
        if snapshot.about(path, verify=False) == about:
            return found
    return _read(folder)  # a run that goes on has put another one in its place meanwhile


def _replayed(path: Path, about: About) -> _Found:
    rounds = round_log.read(path, about.until)
    if rounds.torn:
        log.warning("%s: the last round was not written to its end, and is left out", path)
    if rounds.damaged:
        log.warning("%s: a round is damaged; it and those after it are left out", path)
    return _Found(path, round_log.replayed(rounds, snapshot.read(path, about)), rounds)


def _last(rounds: Log, about: About) -> int:
    return rounds.rounds[-1].step.round if rounds.rounds else about.round


def _newest(folder: Path) -> tuple[Path, About]:
    """The newest sound checkpoint, and what its ``state.json`` says."""
    for path in _present(folder):
        if (about := snapshot.about(path)) is not None:
            return path, about
        log.warning("the checkpoint %s is damaged and is skipped", path)
    raise ValueError(f"every checkpoint in {folder} is damaged; start the run anew")


def _present(folder: Path) -> list[Path]:
    """All checkpoints, newest first; the best one comes last."""
    found = [folder / "checkpoint", *(_earlier(folder, number) for number in _rounds(folder)), folder / "best"]
    if not (found := [path for path in found if path.is_dir()]):
        raise FileNotFoundError(f"{folder} has no checkpoint: give the output_dir of a run that finished a round")
    return found


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
    about = snapshot.about(path, verify=False)
    return about.round if about else 0


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
