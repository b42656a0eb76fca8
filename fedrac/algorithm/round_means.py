"""What a round is made of: the means of the clients' factors, of which everyone makes the same step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm import returned
from fedrac.algorithm.blocks import Block
from fedrac.algorithm.means import Cohort, Shares
from fedrac.algorithm.method import RoundMethod
from fedrac.algorithm.state import ServerState


def round_means(
    state: ServerState, blocks: Sequence[Block], method: RoundMethod, stacked: Mapping[str, Tensor], cohort: Cohort
) -> dict[str, Tensor]:
    """All that the next state needs of the clients' factors, in the master dtype; see `mean_shapes`.

    Args:
        stacked: by `Block.key`, (C, ...), what the clients found, in order of client id.
        cohort: the clients.

    Raises:
        ValueError: a mean of the method's own is not what is due.
    """
    found: dict[str, Tensor] = {}
    if method.method.has_own("mean"):
        cohort = replace(cohort, lengths=_lengths(state.factors, stacked))
    for block in blocks:
        mine = {x: stacked[block.key(x)] for x in block.sent_letters(method)}
        if not mine:
            continue
        due = {x: _mean_shape(block, x) for x in mean_letters(block, method)}
        start = {x: state.factors[block.key(x)] for x in mine if block.key(x) in state.factors}
        means = method.method.mean(mine, replace(cohort, start=start))
        means = returned.of_mean(method.method, block.name, means, due)
        found |= {block.key(x): mean.to(state.weights[block.name].dtype) for x, mean in means.items()}
    return found


def _lengths(carried: Mapping[str, Tensor], stacked: Mapping[str, Tensor]) -> Shares:
    """Squared lengths (C,) of what clients found, less what was carried on."""
    moved = [value.double() - carried.get(key, torch.zeros(())).double() for key, value in sorted(stacked.items())]
    return np.asarray(sum(each.flatten(1).square().sum(1) for each in moved), dtype=np.float64)


def mean_letters(block: Block, method: RoundMethod) -> tuple[str, ...]:
    """Of what a round takes the mean: each trained factor; the product ``BA``, if products are averaged."""
    letters = block.sent_letters(method)
    if method.average == "factors" or block.rank is None:
        return letters
    return ("BA",) if method.merge else (*letters, "BA")


def mean_shapes(blocks: Sequence[Block], method: RoundMethod) -> dict[str, tuple[int, ...]]:
    """Key and shape of every mean that makes up a round: what a host needs to make the server's step itself."""
    return {b.key(x): _mean_shape(b, x) for b in blocks for x in mean_letters(b, method)}


def _mean_shape(block: Block, letters: str) -> tuple[int, ...]:
    return (*block.stacked, block.m, block.n) if letters == "BA" else block.factor_shape(letters)
