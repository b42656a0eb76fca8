"""The mean of the models that the rounds have led to: what a run predicts with, where that is wanted.

While clients differ and rates are high, the weights wander around what they converge to; their mean lies nearer to it.
The mean here is that of polynomial decay (arXiv 1212.1824): the model after round t counts in proportion to ``t^p``, so
that the beginning is forgotten, however many rounds there will be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.state import ServerState


def averaged(state: ServerState, blocks: Sequence[Block], merged: Mapping[str, Tensor], power: float) -> ServerState:
    """The state with its round's model in the mean.

    Args:
        state: after a round; its mean is that of the rounds before, or empty.
        blocks: what is trained; all else stays as it is.
        merged: the model after the round, by name in its state dict.
        power: p; 0: all rounds count alike.
    """
    share = (power + 1) / (state.round + power)
    names = [name for block in blocks for name in block.names if name in merged]
    mean = {name: state.mean[name].lerp(merged[name], share) if state.mean else merged[name] for name in names}
    return replace(state, mean=mean)
