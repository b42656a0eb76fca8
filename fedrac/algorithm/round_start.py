"""Where a round starts: its sketches and the first value of every factor, the same on the server and on clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.sketch import SketchSpec, digest, gram_inverse


@dataclass(frozen=True)
class Sketches:
    """The random factors of one round.

    Attributes:
        values: by `Block.name`, float64.
        digest: of their raw entries; server and clients compare it.
    """

    values: Mapping[str, Tensor]
    digest: str


@dataclass(frozen=True)
class Start:
    """Where a round starts.

    Attributes:
        frozen: by `Block.key`, the sketches, shared by all clients.
        trained: by `Block.key`, the starting value of every trained factor, without cohort axis.
        gram_inverse: by `Block.name`, (r, r): the inverse Gram matrix of the sketch, for the theory step.
    """

    frozen: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    gram_inverse: Mapping[str, Tensor]

    def to(self, device: torch.device) -> "Start":
        """The same on another device."""
        parts = (self.frozen, self.trained, self.gram_inverse)
        return Start(*({k: v.to(device) for k, v in part.items()} for part in parts))


def draw_sketches(blocks: Sequence[Block], method: Method, spec: SketchSpec, round_: int) -> Sketches:
    """The random factor of every block of low rank in ``round_``. That of a padding row is zero: it never moves."""
    at = method.at(round_)
    low = [(b, b.rank) for b in blocks if b.rank is not None]
    raws = {part: spec.raw(at.side, at.sketch_round, part, b.m, b.n, rank) for b, rank in low for part in b.parts}
    for block in blocks:
        if block.padding is not None and block.name in raws and at.drawn_letter == "B":
            raws[block.name][block.padding] = 0.0
    values = {b.name: _stacked([spec.finish(at.side, raws[part]) for part in b.parts], b) for b, _ in low}
    return Sketches(values, digest(raws))


def _stacked(matrices: list[Tensor], block: Block) -> Tensor:
    return matrices[0] if block.stack is None else torch.stack(matrices)


def start_of_round(
    blocks: Sequence[Block],
    method: RoundMethod,
    sketches: Mapping[str, Tensor],
    carried: Mapping[str, Tensor],
    dtype: torch.dtype,
    precondition: bool = True,
) -> Start:
    """Frozen factors, starting values of the trained ones, and (if ``precondition``) Gram inverses, in ``dtype``.

    A trained factor starts at zero, so that the round starts exactly at W; at its random draw, if both factors are
    trained; or where the last round left it, if the method carries factors (``carried``).
    """
    drawn, trained = method.drawn_letter, {}
    for block in blocks:
        for letter in method.trained_letters(block.rank is None):
            at_random = letter == drawn and block.rank is not None
            first = sketches[block.name] if at_random else torch.zeros(block.factor_shape(letter))
            trained[block.key(letter)] = carried.get(block.key(letter), first).to(dtype)
    if method.train == "both":
        return Start({}, trained, {})
    frozen = {b.key(drawn): sketches[b.name].to(dtype) for b in blocks if b.rank is not None}
    inverted = sketches if precondition else {}
    inverses = {name: gram_inverse(value, method.side).to(dtype) for name, value in inverted.items()}
    return Start(frozen, trained, inverses)
