"""A node's copy of the server's state: in the memory of its process, on its disk, or built from the configuration.

Where a node keeps files, the state that it remembers is in files without a name, too, whose pages the system may write
out: it is as large as the model in float32, and nothing reads it while clients are trained with other weights.

A node's process may end at any time, and a simulation's next message may come to another one, so nothing relies on
memory; what is found there saves time. Nothing relies on the disk either: a copy is what its digest says, or it does
not count.
"""

import contextlib
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedrac.algorithm.state import ServerState
from fedrac.protocol import state_digest
from fedrac.protocol.mapped import apart, empty_in, in_files
from fedrac.protocol.state_digest import DigestedState
from fedrac.protocol.state_log import Step, Update, apply

log = logging.getLogger(__name__)

RUNS = 3  # of so many runs a folder keeps the state: the newest ones
ROUNDS = 10  # that a folder may be behind memory: what a process that ends must be sent again
_latest: tuple[str | None, DigestedState] | None = None  # the run it belongs to, None: to the server beside


class CannotRebuild(Exception):
    """The state that the server wants cannot be made here.

    Attributes:
        reason: its base is ``missing``, or the result ``differs``.
        offers: digests of the states that are here instead.
    """

    def __init__(self, reason: str, offers: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason, self.offers = reason, offers


def remember(state: DigestedState, run: str | None = None) -> None:
    """Keeps a state of a run for whoever needs it next in this process; None: a server's, for the hosts beside it."""
    global _latest
    _latest = run, state


def forget() -> None:
    """Lets go of the state that is remembered."""
    global _latest
    _latest = None


class Initial:
    """The weights before round 1, as far as the configuration tells: built where they are needed, not kept for the run.

    Args:
        build: makes them, in the master dtype.
        digest: of the state that has these weights and no factors, where it is known already.
        built: makes them of a model that has been built already, and is kept until the first state is there.
    """

    def __init__(
        self,
        build: Callable[[], Mapping[str, Tensor]],
        digest: str | None = None,
        built: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._build, self._built = build, built
        if digest is not None:
            self.digest = digest

    def snapshot(self) -> DigestedState:
        """The state that has these weights and no factors."""
        return state_digest.take(ServerState(0, (self._built or self._build)(), {}))

    def release(self) -> None:
        """Lets go of what was kept for the first state."""
        self._built = None

    @cached_property
    def digest(self) -> str:
        """Of the snapshot."""
        return self.snapshot().digest


@dataclass(frozen=True)
class NodeState:
    """What a node has of the server's state between messages.

    Attributes:
        initial: what it can build.
        folder: on a disk that outlives the process; None: it keeps no files.
        in_memory: the next message is likely to come to a process that remembers the state, so that it counts as kept;
            one that does not says so, and what it has.
        run: as Flower names it, never as a message does. A node shows a run nothing that another run has left here:
            whoever starts one could otherwise take the weights of all.
    """

    initial: Initial
    folder: Path | None = None
    in_memory: bool = False
    run: str = "run"

    def offers(self) -> list[str]:
        """Digests of the states that are here, for the server to choose from."""
        return [*self._digests(self.in_memory), self.initial.digest]

    def _digests(self, in_memory: bool = True) -> list[str]:
        found = self._remembered() if in_memory else None
        kept = _digest_in(self._file) if self._file else ""
        return ([found.digest] if found else []) + ([kept] if kept else [])

    def follow(self, update: Update, advance: Callable[[ServerState, Step], ServerState]) -> tuple[ServerState, bool]:
        """The server's state, and whether the next message may build on it.

        Args:
            update: what the server sent.
            advance: makes one step as the server made it.

        Raises:
            CannotRebuild: it cannot be made from what is here.
        """
        found = self._in_files(self._held(update.digest) or self._made(update, advance))
        kept = self._keep(found)
        remember(found, self.run)
        self.initial.release()
        return found.state, kept or self.in_memory

    def _made(self, update: Update, advance: Callable[[ServerState, Step], ServerState]) -> DigestedState:
        """From a state that is here, or from what was sent alone."""
        way, held = self._beginning(update)
        if way.base and held is None:
            raise CannotRebuild("missing", [digest for digest in self.offers() if digest != update.base])
        found = state_digest.take(apply(way, held.state if held else None, advance), held)
        if found.digest != update.digest:
            raise CannotRebuild("differs")
        return found

    def room(self, like: Tensor) -> Tensor:
        """An empty tensor like another one, for a matrix of the next state."""
        return torch.empty_like(like) if self.folder is None else empty_in(self.folder, like)

    def _beginning(self, update: Update) -> tuple[Update, DigestedState | None]:
        """The shortest part of the way whose first state is here, and that state; the whole way and None if none is."""
        way = update.without(self._digests())
        held = self._held(way.base) if way.base else None
        if held is None:
            way, held = update, (self._held(update.base) or self._built(update.base)) if update.base else None
        return way, held

    def _held(self, digest: str) -> DigestedState | None:
        found = self._remembered()
        if found is not None and found.digest == digest:
            return found
        if self._file and _digest_in(self._file) == digest:
            with contextlib.suppress(OSError, SafetensorError):  # damaged, or removed by another process
                found = state_digest.take(state_digest.state_of(0, load_file(self._file)))
                return found if found.digest == digest else None
        return None

    def _in_files(self, state: DigestedState) -> DigestedState:
        """The same, in no memory of this process's own, where it remembers it and the node keeps files."""
        if self.folder is None or not self.in_memory:
            return state
        tensors = in_files(self.folder, state.tensors)
        return replace(state, state=state_digest.state_of(state.state.round, tensors))

    def _remembered(self) -> DigestedState | None:
        run, state = _latest or ("", None)
        return state if run == self.run or (run is None and self.in_memory) else None

    @property
    def _file(self) -> Path | None:
        return self.folder / f"{self.run}.safetensors" if self.folder else None

    def _built(self, digest: str) -> DigestedState | None:
        """Comes last: building a large model takes longer than all the rest."""
        found = self.initial.snapshot()
        return found if found.digest == digest else None

    def _files(self) -> list[Path]:
        """Those of all runs, newest first."""
        found = []
        for path in self.folder.glob("*.safetensors") if self.folder else ():
            with contextlib.suppress(OSError):  # removed by another process
                found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found, reverse=True)]

    def _keep(self, state: DigestedState) -> bool:
        """Puts the state in the place of the run's last one and removes old runs; False if the disk does not take it.

        Where memory has it, a file of some rounds before is enough.

        Nothing waits for the disk: a file that a power cut spoils has another digest than it says.
        """
        if self.folder is None or (place := self._file) is None:
            return False
        if self.in_memory and 0 <= state.state.round - int(_said(place).get("round", -ROUNDS)) < ROUNDS:
            return True
        part = place.with_suffix(".part")
        try:
            if _digest_in(place) != state.digest:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_file(apart(state.tensors), part, _about(state))
                part.replace(place)
            for path in self._files()[RUNS:]:
                path.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            log.warning("the state is not kept in %s on %s: %s", self.folder, platform.node(), error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return False
        return True


def _about(state: DigestedState) -> dict[str, str]:
    return {"digest": state.digest, "round": str(state.state.round)}


def _digest_in(path: Path) -> str:
    """What a file says it holds; empty if it says nothing."""
    return _said(path).get("digest", "")


def _said(path: Path) -> dict[str, str]:
    """What `_about` wrote into a file; empty if it says nothing."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
