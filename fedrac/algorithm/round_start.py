"""Where a round starts: its sketches and the first value of every factor, the same on the server and on clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.controlled import Controlled
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.sketch import Side, SketchSpec, completed, digest, gram_inverse

_NOTHING: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Sketches:
    """The frozen factors of one round.

    Attributes:
        values: by `Block.sketch_key`, float64.
        digest: of the raw entries that were drawn; server and clients compare it.
    """

    values: Mapping[str, Tensor]
    digest: str


@dataclass(frozen=True)
class Start:
    """Where a round starts.

    Attributes:
        frozen: by `Block.key`, the sketches, shared by all clients.
        trained: by `Block.key`, the starting value of every trained factor, without cohort axis.
        gram_inverse: by `Block.sketch_key`, (r, r): the inverse Gram matrix of the sketch, for the theory step.
        prox: how strongly clients are held to ``trained``, `Method.prox`.
        method: where clients have controls.
        shared: by `Block.key`, the server's controls, as ``trained``; empty where there are none.
        objective: the method, where it adds something to the objective of clients (`Method.local_gradient`).
    """

    frozen: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    gram_inverse: Mapping[str, Tensor]
    prox: float = 0.0
    method: Controlled | None = None
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    objective: Method | None = None

    def to(self, device: torch.device) -> "Start":
        """The same on another device."""
        frozen, trained, inverses, shared = (
            {k: v.to(device) for k, v in part.items()}
            for part in (self.frozen, self.trained, self.gram_inverse, self.shared)
        )
        return replace(self, frozen=frozen, trained=trained, gram_inverse=inverses, shared=shared)


def draw_sketches(
    blocks: Sequence[Block], method: Method, spec: SketchSpec, round_: int, basis: Mapping[str, Tensor] = _NOTHING
) -> Sketches:
    """The frozen factors of every block of low rank in ``round_``. That of a padding row is zero: it never moves.

    Args:
        basis: by `Block.key`, what is fixed for the run, in the state's dtype: A (k0, n) with orthonormal rows, and B
            (m, p) where L is fixed, too.

    Raises:
        ValueError: a block's basis is missing.
    """
    at = method.at(round_)
    raws: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for block in blocks:
        for letter in block.drawn_letters(at):
            parts = [] if letter == "B" and block.key("B") in basis else _raws(block, letter, at, spec)
            raws.update(parts)
            values[block.sketch_key(letter)] = _finished(block, letter, spec, [raw for _, raw in parts], basis)
    return Sketches(values, digest(raws))


def _raws(block: Block, letter: str, at: RoundMethod, spec: SketchSpec) -> list[tuple[str, Tensor]]:
    """What is drawn for one factor: a matrix for each part of the block, under its stream's name."""
    assert block.rank is not None
    side: Side = "left" if letter == "B" else "right"
    rows = block.rank if letter == "B" or block.columns is None else block.columns
    law = replace(spec, law="gaussian") if letter == "A" and block.fixed else spec  # isotropic in any complement
    found = []
    for part in block.parts if rows > block.fixed or letter == "B" else ():
        name = part if letter == "B" or block.columns is None else f"{part}:A"
        drawn = rows - block.fixed if letter == "A" else rows
        raw = law.raw(side, at.sketch_round, name, block.m, block.n, drawn)
        if block.padding is not None and letter == "B":
            raw[block.padding] = 0.0
        found.append((name, raw))
    return found


def _finished(
    block: Block, letter: str, spec: SketchSpec, raws: Sequence[Tensor], basis: Mapping[str, Tensor]
) -> Tensor:
    """One factor of what was drawn for it and of what is fixed."""
    fixed = basis.get(block.key(letter))
    if fixed is None:
        if letter == "A" and block.fixed:
            raise ValueError(f"there is no basis of {block.name}")
        return _stacked([spec.finish("left" if letter == "B" else "right", raw) for raw in raws], block)
    fixed = fixed.double()
    if not raws:
        return fixed
    each = [fixed] if block.stack is None else list(fixed)
    return _stacked([completed(one, raw) for one, raw in zip(each, raws, strict=True)], block)


def _stacked(matrices: list[Tensor], block: Block) -> Tensor:
    return matrices[0] if block.stack is None else torch.stack(matrices)


def frozen_factor(block: Block, letter: str, sketches: Mapping[str, Tensor], carried: Mapping[str, Tensor]) -> Tensor:
    """The factor that a round freezes: where an earlier round left it, or else the sketch."""
    return carried.get(block.key(letter), sketches[block.sketch_key(letter)])


def start_of_round(
    blocks: Sequence[Block],
    method: RoundMethod,
    sketches: Mapping[str, Tensor],
    carried: Mapping[str, Tensor],
    dtype: torch.dtype,
    precondition: bool = True,
    moments: Mapping[str, Tensor] = _NOTHING,
) -> Start:
    """Frozen factors, starting values of the trained ones, and (if ``precondition``) Gram inverses, in ``dtype``.

    A trained factor starts at zero, so that the round starts exactly at W; at its random draw, if both factors are
    trained; or where the last round left it, if the method carries factors (``carried``).
    """
    frozen, trained, inverses = {}, {}, {}
    for block in blocks:
        drawn = {x: frozen_factor(block, x, sketches, carried) for x in block.drawn_letters(method)}
        for letter in block.trained_letters(method):
            first = drawn.get(letter, torch.zeros(block.factor_shape(letter)))
            trained[block.key(letter)] = carried.get(block.key(letter), first).to(dtype)
        for letter, value in drawn.items() if method.train != "both" else ():
            frozen[block.key(letter)] = value.to(dtype)
            if precondition:
                side: Side = "left" if letter == "B" else "right"
                inverses[block.sketch_key(letter)] = gram_inverse(value, side).to(dtype)
    objective = method.method if method.method.has_own("local_gradient") else None
    if not isinstance(method.method, Controlled):
        return Start(frozen, trained, inverses, method.prox, objective=objective)
    shared = {key: moments.get(f"{key}/c", torch.zeros_like(value)).to(dtype) for key, value in trained.items()}
    return Start(frozen, trained, inverses, method.prox, method.method, shared, objective)
