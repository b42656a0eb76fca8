"""The server's history, and what of it somebody needs who has an earlier state.

A round moves a state by the means of the clients' factors and a sketch that follows from the seed: whoever has the
state before it can make the same step (`fedrac.algorithm.server_step.advance`). Who is further behind gets the means of
all rounds since then, or the tensors that have changed, whichever are fewer bytes.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fedrac.algorithm.state import ServerState
from fedrac.protocol import state_digest

PARTS = ("weights", "factors", "basis", "moments")  # of `ServerState`: tensors by name


@dataclass(frozen=True)
class Step:
    """What turns the state before ``round`` into the one after it.

    Attributes:
        round: names the sketch.
        eta: the server's step eta'.
        means: those of `fedrac.algorithm.round_means.round_means`, one after another, (N,) in the master dtype.
    """

    round: int
    eta: float
    means: Tensor


@dataclass(frozen=True)
class Update:
    """What turns a state that a host holds into the server's.

    Attributes:
        round, digest: of the server's state.
        base: digest of the state to start from; empty if ``weights`` and ``factors`` are all there is.
        steps: rounds to replay, in order.
        weights, factors, basis, moments: tensors that replace those of ``base``, before any step.
        path: digests of the states that the steps start from; who holds one of them needs no more than the steps after
            it.
    """

    round: int
    digest: str
    base: str
    steps: tuple[Step, ...]
    weights: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]
    basis: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    path: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, Any]:
        """Those that replace others, by the part of `ServerState` that they belong to."""
        return {part: getattr(self, part) for part in PARTS}

    def without(self, held: Collection[str]) -> "Update":
        """What is left of it for who holds these digests."""
        place = max((place for place, digest in enumerate(self.path) if digest in held), default=None)
        if place is None:
            return self
        path, steps = self.path[place:], self.steps[place:]
        nothing: dict[str, Any] = {part: {} for part in self.tensors}
        return replace(self, base=path[0], steps=steps, path=path, **nothing)


class StateLog:
    """States of a run by digest, and the newest steps between them. A *place* is a state's number in the history.

    Args:
        initial: what hosts may have from elsewhere: the state before round 1, or its weights alone.
        replays: whether hosts can make the steps themselves; not where they cannot rebuild the sketches.

    Attributes:
        tip: the newest state.
    """

    def __init__(self, initial: ServerState, replays: bool = True) -> None:
        self.tip = state_digest.take(initial)
        self._replays = replays
        self._place = 0
        self._places = {self.tip.digest: 0}
        self._digests = [self.tip.digest]  # by place
        self._upto = [0]  # by place: bytes of the steps that lead there
        self._changed = dict.fromkeys(self.tip.prints, 0)  # the place at which a tensor got its present value
        self._steps: deque[Step] = deque()  # those that lead to the newest places, without a gap
        self._jump: tuple[int, set[str]] | None = None  # the place before the steps that no step left, and what changed

    def add(self, state: ServerState, step: Step | None = None) -> None:
        """The next state, and the step that leads there from the one before; None if there is none."""
        before, self.tip = self.tip, state_digest.take(state, self.tip)
        self._place += 1
        self._places[self.tip.digest] = self._place
        self._digests.append(self.tip.digest)
        self._upto.append(self._upto[-1] + (0 if step is None else step.means.nbytes))
        changed = {k for k, value in self.tip.prints.items() if before.prints.get(k) != value}
        self._changed |= dict.fromkeys(changed, self._place)
        if step is None or not self._replays:
            self._steps.clear()
            self._jump = (self._place - 1, changed) if step is None else None
            return
        self._steps.append(step)
        whole = self._size_of(self.tip.tensors)
        while self._upto[self._place] - self._upto[self._place - len(self._steps)] >= whole:
            self._steps.popleft()  # from so far back, the tensors themselves are never longer
            self._jump = None

    def newest(self, digests: Iterable[str]) -> str:
        """The one of ``digests`` that was a state last; empty if none was."""
        return max((d for d in digests if d in self._places), key=self._places.__getitem__, default="")

    def update_from(self, base: str, replay: bool = True) -> Update:
        """The shortest way to the tip for who holds the state with digest ``base``; empty: who holds nothing.

        Args:
            base: as `newest` gives it.
            replay: steps may be part of the way.
        """
        start, given, _ = self._shortest(base, replay)
        first = self._place - len(self._steps)
        rest = state_digest.state_of(0, {k: v for k, v in self.tip.tensors.items() if k in given})
        path = tuple(self._digests[start : self._place])
        steps = tuple(islice(self._steps, start - first, None)) if path else ()
        parts = (rest.weights, rest.factors, rest.basis, rest.moments)
        return Update(self.tip.state.round, self.tip.digest, base, steps, *parts, path)

    def size_from(self, base: str, replay: bool = True) -> int:
        """Bytes of the numbers in `update_from`, which is not made."""
        return self._shortest(base, replay)[2]

    def _shortest(self, base: str, replay: bool) -> tuple[int, set[str], int]:
        """The place from which steps lead to the tip, the tensors to set before them, and the bytes of both."""
        place = self._places[base] if base else -1
        changed = {k for k, since in self._changed.items() if since > place}
        if replay and base and (way := self._way(place)) is not None:
            start, given = way
            bytes_ = self._size_of(given) + self._upto[self._place] - self._upto[start]
            if bytes_ < self._size_of(changed):
                return start, given, bytes_
        return self._place, changed, self._size_of(changed)

    def _way(self, place: int) -> tuple[int, set[str]] | None:
        """Where the steps from ``place`` to the tip begin, and what to set before them; None: no steps lead there."""
        first = self._place - len(self._steps)
        if place >= first:
            return place, set()
        jumped, names = self._jump or (None, set())
        if place == jumped and all(self._changed[k] <= first for k in names):  # no step has changed what it was then
            return first, names
        return None

    def _size_of(self, names: Iterable[str]) -> int:
        return sum(self.tip.tensors[name].nbytes for name in names)


@torch.no_grad()
def apply(update: Update, held: ServerState | None, advance: Callable[[ServerState, Step], ServerState]) -> ServerState:
    """The state that ``update`` leads to from ``held``; ``advance`` makes one step, as the server made it."""
    if held is None:
        return ServerState(update.round, **update.tensors)
    parts: dict[str, Any] = {x: {**getattr(held, x), **part} for x, part in update.tensors.items()}
    state = ServerState(held.round, **parts)
    for step in update.steps:
        state = advance(state, step)
    return replace(state, round=update.round)
