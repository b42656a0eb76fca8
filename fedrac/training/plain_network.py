"""A plain network with the clients' updates: losses and gradients of a step, written out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fedrac.algorithm.blocks import Block
from fedrac.training.plain_layers import ACTIVATIONS, Activation, Linear, Norm
from fedrac.training.plain_memory import Memory, Rows, Size
from fedrac.training.way import Layer

# (outputs (R, ...), targets, weight (R,)) to the losses (R,) and the gradient (R, ...) of their sum with the weight.
LossGradient = Callable[[Tensor, Any, Tensor], tuple[Tensor, Tensor]]

_SIZES = 256  # numbers of clients and rows, for each of which there are layers that know their memory


class PlainNetwork:
    """A network in which every layer takes what the one before it gives.

    Args:
        model: has the frozen weights.
        blocks: what is trained; all of it is in ``layers``.
        layers: from `fedrac.training.plain.layers_of`.
        trained: keys of the trained factors.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[Block], layers: Sequence[Layer], trained: Sequence[str]
    ) -> None:
        self.of = model, blocks, layers
        self._blocks = {name: block for block in blocks for name in block.names}
        self._trained = list(trained)
        self._owners = {f"{path}.{name}".lstrip("."): (module, name) for path, module, name in _parameters(model)}
        self._first = next((i for i, layer in enumerate(layers) if layer.kind == "linear"), len(layers))
        self._memory = Memory(next(model.parameters()).detach())
        self._sized = lru_cache(_SIZES)(self._layers_for)
        self._rows = lru_cache(_SIZES)(self._memory.rows)
        self._layers: list[Linear | Norm | Activation] = []

    def _layers_for(self, size: Size) -> list[Linear | Norm | Activation]:
        found: list[Linear | Norm | Activation] = []
        kinds = ["", *(layer.kind for layer in self.of[2])]
        for number, (layer, (before, kind)) in enumerate(zip(self.of[2], pairwise(kinds), strict=True)):
            if kind == "linear":
                on = number > self._first
                found.append(Linear(layer, number, self._blocks, self._trained, size, self._memory, on))
            elif kind == "norm":
                found.append(Norm(layer))
            else:
                found.append(Activation(kind, number, size, self._memory, not before or before in ACTIVATIONS))
        return found

    def use(self, factors: Mapping[str, Tensor], clients: int, each: int) -> None:
        """Sets the factors, by `Block.key`, trained ones (C, ...), and how many rows each of C clients has."""
        self.release()
        self._size = Size(clients, each)
        self._layers = self._sized(self._size)
        parameters = {
            name: getattr(module, own) for name, (module, own) in self._owners.items()
        }  # they may be new ones
        for layer in self._layers:
            layer.bind(parameters, factors)

    def release(self) -> None:
        """Lets go of what belongs to a round; its memory stays."""
        for layer in self._layers:
            layer.release()

    @torch.no_grad()
    def gradients(
        self, loss: LossGradient, inputs: object, targets: Any, weight: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses (rows,), and the gradients (C, ...) of their sum with ``weight`` (rows,), in order of the factors.

        The gradients are overwritten by the next step's.
        """
        assert isinstance(inputs, Tensor)
        rows = self._filled("in", inputs.flatten(1))
        for layer in self._layers:
            rows = layer.forward(rows)
        losses, gradient = loss(rows.real, targets, weight)
        g: Rows | None = self._filled("of outputs", gradient)
        found: dict[str, Tensor] = {}
        for layer in self._layers[: self._first - len(self._layers) - 1 : -1]:
            g = layer.back(g, found) if g is not None else None
        return losses, [found[key] for key in self._trained]

    def _filled(self, name: str, values: Tensor) -> Rows:
        """Rows (C * b, n), filled up where they are too few."""
        if len(values) == self._size.total:
            return Rows(values, self._size)
        filled: Rows = self._rows(name, self._size, values.shape[1])
        filled.real.copy_(values)
        return filled


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """The path of every module that has parameters of its own, the module, and their names in it."""
    for path, module in model.named_modules():
        yield from ((path, module, name) for name, _ in module.named_parameters(recurse=False))
