"""What a forward pass costs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fedrac.data import Examples
from fedrac.data.batch import batch
from fedrac.data.tokens import Tokens
from fedrac.training.evaluation import call


def of_a_row(model: nn.Module, examples: Examples) -> float:
    """Multiplications with the weights in a forward pass of one example, the longest of texts."""
    weight = next(model.parameters())
    longest = int(examples.inputs.lengths.argmax()) if isinstance(examples.inputs, Tokens) else 0
    model.eval()
    return multiplications(model, batch(examples.take(np.array([longest])), weight.device, weight.dtype)[0], 1)


@torch.no_grad()
def multiplications(model: nn.Module, inputs: object, rows: int) -> float:
    """Multiplications with the model's weights in a forward pass, for one row.

    A weight counts once for every position that its module's output has: a row of a batch, a pixel of a convolution,
    a token. Products of activations with one another, as in attention, are not counted.

    Args:
        model: in the mode in which it shall run.
        inputs: of ``rows`` rows, as the model takes them.
    """
    total = 0

    def hook(of_row: int) -> Callable[..., None]:
        def count(module: nn.Module, _: Any, outputs: Any) -> None:
            nonlocal total
            out = next((leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)), None)
            if out is not None and out.ndim:
                total += of_row * (out.numel() // max(out.shape[_channels(module, out)], 1))

        return count

    handles = [
        module.register_forward_hook(hook(of_row)) for module in model.modules() if (of_row := _multiplied(module))
    ]
    try:
        call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return total / rows


def _multiplied(module: nn.Module) -> int:
    """Numbers in the module's own matrices that every position is multiplied with."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return 0  # looked up
    return sum(parameter.numel() for parameter in module.parameters(recurse=False) if parameter.ndim > 1)


def _channels(module: nn.Module, out: Tensor) -> int:
    """The dimension of the output that the weights make; the others are positions."""
    return 1 if isinstance(module, nn.modules.conv._ConvNd) and out.ndim > 2 else -1
