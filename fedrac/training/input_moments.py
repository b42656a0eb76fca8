"""What the inputs of a model's layers are like: ``sum x x^T`` over all rows that meet a weight."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedrac.algorithm.blocks import Block
from fedrac.data.batch import Batch
from fedrac.training.evaluation import call
from fedrac.training.layer_updates import patches


@torch.no_grad()
def input_moments(model: nn.Module, blocks: Sequence[Block], parts: Iterable[Batch]) -> dict[str, Tensor]:
    """By `Block.name`, (n, n) float64, for weights of linear layers and of convolutions without groups.

    Args:
        model: in evaluation mode.
        parts: what the model computes, in its dtype and on its device.

    Other weights (embeddings, whose inputs are no vectors; recurrent layers, attention, experts) are left out.
    """
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_pre_hook(_adding(found, block))
        for block in blocks
        for path, attribute in block.owners
        if attribute == "weight" and _is_plain(model.get_submodule(path))
    ]
    try:
        for inputs, _ in parts:
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _adding(found: dict[str, Tensor], block: Block) -> Callable[[nn.Module, Any], None]:
    def add(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if not args:
            return
        rows = patches(layer, args[0]).mT if isinstance(layer, nn.Conv2d) else args[0]
        rows = rows.reshape(-1, rows.shape[-1]).double()
        found[block.name] = found.get(block.name, 0.0) + (rows.T @ rows).cpu()

    return add
