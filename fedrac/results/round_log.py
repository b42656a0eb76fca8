"""The rounds since a checkpoint was written whole: an append a round, read back by replaying them.

The file is a row of frames: length (8 bytes, little-endian), SHA-256 of the content, content. The first one is JSON of
the run's `Replay`; each other one is a round, in the format of safetensors. Nothing that is written is changed later,
so a reader needs no lock. A last frame that is cut off was being written when the machine stopped.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load, save

from fedrac.algorithm.state import GuardState, ServerState
from fedrac.protocol import state_digest
from fedrac.protocol.replay import FinishedRound, Replay
from fedrac.protocol.state_log import Step
from fedrac.results import snapshot

FILE = "rounds.log"
_HEAD = struct.Struct("<Q32s")


def append(folder: Path, replay: Replay, rounds: Sequence[FinishedRound]) -> int:
    """Puts rounds at the end of the log in ``folder``, and waits for the disk.

    Args:
        folder: of the checkpoint.
        replay: of the run; it opens a new log.
        rounds: those after what is there.

    Returns:
        Bytes that were written.

    Raises:
        OSError: the disk does not take them. What is there has an end that is cut off: nothing may be appended to it.
    """
    secret = any(each.guard != GuardState() for each in rounds)  # it can hold the seed of the noise
    with open(os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600 if secret else 0o666), "ab") as file:
        opening = [] if file.tell() else [TypeAdapter(Replay).dump_json(replay)]
        written = file.write(b"".join(_frame(content) for content in (*opening, *map(_content, rounds))))
        file.flush()
        os.fsync(file.fileno())
    return written


@dataclass(frozen=True)
class Log:
    """What a log holds.

    Attributes:
        replay: of the run; None where not even that is whole.
        rounds: in order.
        torn: the last frame was being written when the machine stopped.
        damaged: a frame is not as it was written; it and what follows are left out.
    """

    replay: Replay | None = None
    rounds: Sequence[FinishedRound] = ()
    torn: bool = False
    damaged: bool = False


def read(folder: Path, last: int | None = None) -> Log:
    """The log in ``folder``, up to round ``last``; an empty one where there is none."""
    replay, rounds = None, []
    try:
        for content in _frames(folder / FILE):
            if replay is None:
                replay = TypeAdapter(Replay).validate_json(content)
                continue
            found = _finished(content)
            if last is not None and found.step.round > last:
                break
            rounds.append(found)
    except EOFError:
        return Log(replay, rounds, torn=True)
    except ValueError:  # of all kinds: bad digests, JSON, safetensors
        return Log(replay, rounds, damaged=True)
    return Log(replay, rounds)


def replayed(log: Log, state: ServerState) -> ServerState:
    """The state after the last round of ``log``.

    Args:
        log: from `read`.
        state: from which its first round started.

    Raises:
        ValueError: it is not the one that the run had.
    """
    for each in log.rounds:
        assert log.replay is not None
        state = log.replay.advance(state, each.step)
        state = replace(state, clients={**state.clients, **each.own}, ranks={**state.ranks, **each.ranks})
    if log.rounds and state_digest.take(state).digest != log.rounds[-1].digest:
        raise ValueError(
            f"the rounds up to {state.round} give other weights here than where they were made: another math library, "
            "with sketches that are not equal everywhere? Read or resume it there"
        )
    return replace(state, guard=log.rounds[-1].guard) if log.rounds else state


def _frame(content: bytes) -> bytes:
    return _HEAD.pack(len(content), hashlib.sha256(content).digest()) + content


def _frames(path: Path) -> Iterator[bytes]:
    """Raises EOFError where the last one is cut off, and ValueError where one is not what its digest says."""
    if not path.exists():
        return
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise EOFError
            (length, digest), left = _HEAD.unpack(head), left - _HEAD.size
            if length > left:
                raise EOFError
            content, left = file.read(length), left - length
            if hashlib.sha256(content).digest() != digest:
                raise ValueError(f"{path}: a round is damaged")
            yield content


def _content(of: FinishedRound) -> bytes:
    about: dict[str, Any] = {"round": of.step.round, "eta": of.step.eta, "digest": of.digest}
    about |= {"guard": asdict(of.guard), **({"ranks": of.ranks} if of.ranks else {})}
    own = {f"{client}/{key}": value.contiguous() for client, kept in of.own.items() for key, value in kept.items()}
    return save({"means": of.step.means.contiguous(), **own}, {"about": json.dumps(about)})


def _finished(content: bytes) -> FinishedRound:
    about: dict[str, Any] = json.loads(_metadata(content)["about"])
    tensors = load(content)
    step = Step(about["round"], about["eta"], tensors.pop("means"))
    guard = TypeAdapter(GuardState).validate_python(about["guard"])
    return FinishedRound(step, about["digest"], guard, snapshot.by_client(tensors), snapshot.ranks_of(about))


def _metadata(content: bytes) -> dict[str, str]:
    """Of safetensors, whose library reads it from files only: a length (8 bytes), then JSON."""
    found: dict[str, str] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return found
