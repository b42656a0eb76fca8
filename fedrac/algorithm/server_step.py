"""The server's step (arXiv 2410.08305, Algorithm 2): what a round's means make of the state."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedrac.algorithm import returned
from fedrac.algorithm.blocks import Block
from fedrac.algorithm.merge import Room, plus_update, tie, update_of
from fedrac.algorithm.method import RoundMethod
from fedrac.algorithm.round_means import mean_letters
from fedrac.algorithm.state import ServerState


def advance(
    state: ServerState,
    blocks: Sequence[Block],
    method: RoundMethod,
    sketches: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
    eta: float,
    room: Room = torch.empty_like,
) -> ServerState:
    """The server step, ``W + eta' s B_S A_bar`` for the paper's method, ``W + eta' s L Z_bar R`` for a two-sided one,
    and what the others do in its place.

    It has the same bits wherever it is made.

    Args:
        method: what it does in this round.
        sketches: by `Block.sketch_key`, those of this round: (m, r) left, (r, n) right.
        means: by `Block.key`, as `round_means` gives them.
        eta: the server's step eta' of this round.
        room: makes an empty tensor like a given one, for a merged matrix.

    Returns:
        The state after the round.

    Raises:
        ValueError: a step of the method's own is not what is due.
    """
    after = _Step(state, method, sketches, eta, room)
    for block in blocks:
        after.add_block(block, {x: means[block.key(x)] for x in mean_letters(block, method)})
    weights = tie(after.weights, blocks)
    return replace(state, round=state.round + 1, weights=weights, factors=after.factors, moments=after.moments)


class _Step:
    """The state after a step, as far as its blocks have been moved."""

    def __init__(
        self, state: ServerState, method: RoundMethod, sketches: Mapping[str, Tensor], eta: float, room: Room
    ) -> None:
        self._before, self._method, self._sketches, self._eta, self._room = state, method, sketches, eta, room
        self._plain = method.method.steps_plainly
        self.weights, self.factors, self.moments = dict(state.weights), dict(state.factors), dict(state.moments)

    def add_block(self, block: Block, means: Mapping[str, Tensor]) -> None:
        """Moves what one block has, by the means of a round, by letter."""
        controls = [x for x in means if x.endswith("c")]
        for letter in controls:
            self._add_control(block.key(letter.removesuffix("c")), means[letter])
        mine = {block.key(x): mean for x, mean in means.items() if x not in controls}
        if not mine:  # it stays with the clients
            return
        if block.rank is None:
            w = self.weights[block.name]
            self.weights[block.name] = w + self._scaled_step(block.name, mine[block.key("D")])
            return
        start = {key: self.factors[key] for key in mine if key in self.factors}
        carried = {key: value + self._scaled_step(key, mine[key] - value) for key, value in start.items()}
        self.weights[block.name] = self._weight_after(block, mine, carried)
        self.factors.update(carried)

    def _weight_after(self, block: Block, mine: Mapping[str, Tensor], carried: Mapping[str, Tensor]) -> Tensor:
        """The weight of a block of low rank, of the means of its factors and what of them is carried on."""
        w, method = self.weights[block.name], self._method
        if method.average == "products" and self._plain:
            return self._to_mean_product(block, mine, carried)
        if not method.merge:
            return w
        if self._plain:
            return plus_update(block, self._sketches, mine, w, self._eta * block.scale, self._room)
        return w + self._scaled_step(block.name, self._mean_product(block, mine), block.scale)

    def _to_mean_product(self, block: Block, mine: Mapping[str, Tensor], carried: Mapping[str, Tensor]) -> Tensor:
        """The weight beside carried factors, so that the model is the mean of the clients' models."""
        w, target = self.weights[block.name], self._mean_product(block, mine)
        if not carried:
            return w + block.scale * (self._eta * target)
        before, carry = (update_of(block, self._sketches, of, w) for of in (self._before.factors, carried))
        return w + block.scale * (self._eta * (target - before) - (carry - before))

    def _mean_product(self, block: Block, mine: Mapping[str, Tensor]) -> Tensor:
        """The mean of the clients' products, in the shape of the weight: of their factors, or as it is."""
        w, mean = self.weights[block.name], mine.get(block.key("BA"))
        return update_of(block, self._sketches, mine, w) if mean is None else mean.reshape(w.shape)

    def _scaled_step(self, key: str, update: Tensor, scale: float = 1.0) -> Tensor:
        """What the server adds, of a mean update ``scale * update``."""
        if self._plain:
            return (self._eta * scale) * update
        method, update = self._method.method, scale * update
        found, moments = returned.of_step(method, key, method.step(key, update, self._before.moments), update)
        self.moments.update(moments)
        return self._eta * found

    def _add_control(self, key: str, change: Tensor) -> None:
        """Of SCAFFOLD: the server's control, and the mean change of the clients'."""
        name = f"{key}/c"
        self.moments[name] = self._before.moments.get(name, torch.zeros_like(change)) + change
