"""The server's step, made again: from the round's means and the sketch that follows from the seed.

A node catches up by it, and so does whoever reads a run's checkpoint, from the rounds that were logged since.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import PlainSerializer, PlainValidator
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.iterates import averaged
from fedrac.algorithm.merge import Room, effective_weights
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_means import mean_shapes
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.server_step import advance
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.state import GuardState, ServerState
from fedrac.protocol import method_settings
from fedrac.protocol.coding import CodedRound
from fedrac.protocol.sparse import as_sent
from fedrac.protocol.state_log import Step


@dataclass(frozen=True)
class Replay:
    """What all steps of a run have in common.

    Attributes:
        blocks: the trained parameters.
        method: the four choices.
        sketch: law and seed of the random factors.
        bits: of a number of a step's means; None: they are whole.
        average: `ServerSpec.average`; a node has no use for it.
    """

    blocks: Sequence[Block]
    method: Annotated[Method, PlainSerializer(method_settings.written), PlainValidator(method_settings.read)]
    sketch: SketchSpec
    bits: int | None = None
    average: float | None = None

    @torch.no_grad()
    def advance(self, state: ServerState, step: Step, room: Room = torch.empty_like) -> ServerState:
        """The state after ``step``, with the bits that the server has; ``room`` is that of `server_step.advance`."""
        at = self.method.at(step.round)
        sketches = self._sketches(state, step.round)
        coding = CodedRound(self.sketch.seed, step.round, self.blocks, at, sketches, state).means(self.bits)
        means = coding.decode(step.means, mean_shapes(self.blocks, at))
        return self.averaged(advance(state, self.blocks, at, sketches, means, step.eta, room))

    def averaged(self, state: ServerState) -> ServerState:
        """The state after a round, with its model in the mean, where one is taken."""
        return state if self.average is None else averaged(state, self.blocks, self.last(state), self.average)

    def merged(self, state: ServerState, sketches: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The model as it predicts in ``state``, by name in its state dict (the shapes of that), in the master dtype.

        Args:
            sketches: of the carried factors, where they cannot be drawn again.
        """
        return {**self.last(state, sketches), **state.mean}

    def last(self, state: ServerState, sketches: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The model that the last round has led to: `merged`, but for a mean of rounds."""
        if state.factors and not sketches:  # else everything is merged already
            sketches = self._sketches(state, max(state.round, 1))
        if state.factors and self.method.densities is not None:  # entries that nobody is sent are in no client's model
            state = replace(state, factors=as_sent(state.factors, self.method.densities.download))
        return effective_weights(state, self.blocks, sketches or {})

    def _sketches(self, state: ServerState, round_: int) -> Mapping[str, Tensor]:
        return draw_sketches(self.blocks, self.method, self.sketch, round_, state.basis).values


@dataclass(frozen=True)
class FinishedRound:
    """What a log keeps of a round.

    Attributes:
        step: leads from the state before it to the one after.
        digest: of the state after it, see `fedrac.protocol.state_digest`.
        guard: what clipping and noise carry on after it.
        own: by client of the round that is simulated, what has stayed with it, by `Block.key`.
        ranks: by client of the round whose rank is lower from now on, what it is.
    """

    step: Step
    digest: str
    guard: GuardState
    own: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    ranks: Mapping[int, int] = field(default_factory=dict)
