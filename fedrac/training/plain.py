"""Networks in which every layer takes what the one before it gives: their gradients are written out.

A step of a small network is some thirty products of a few microseconds each; calling modules and hooks and walking a
graph back takes about as long as they do. Which networks these are is seen from the operations that a model calls;
that the gradients are those of automatic differentiation is found out before the first step (`fedrac.training.probe`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedrac.algorithm.blocks import Block
from fedrac.training.evaluation import call
from fedrac.training.layer_updates import Factors
from fedrac.training.layout import Layout
from fedrac.training.linear_update import add_update, gradients
from fedrac.training.products import linear, linear_back
from fedrac.training.setup import TrainingSetup
from fedrac.training.way import Layer

_aten = torch.ops.aten
_Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]

# What an activation makes of its input, and the gradient of its input of that of its output g and the output.
_ACTIVATIONS: dict[str, _Activation] = {
    "relu": (torch.relu, lambda g, out: _aten.threshold_backward(g, out, 0)),
    "tanh": (torch.tanh, _aten.tanh_backward),
    "sigmoid": (torch.sigmoid, _aten.sigmoid_backward),
}
_KINDS = {getattr(_aten, f"{name}{way}").default: name for name in _ACTIVATIONS for way in ("", "_")}


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is computed while it is entered: function, arguments, result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[tuple[Any, Any, Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # as PyTorch asks: else it loads its compiler with the first operation
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.made.append((func, (*args, kwargs) if kwargs else args, out))
        return out


@torch.no_grad()
def layers_of(model: nn.Module, inputs: object) -> tuple[Layer, ...]:
    """The layers of a model, in the mode in which it is, by what it computes of ``inputs`` (rows, ...).

    Empty: it does something else, too, or one parameter is in two of its layers.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return ()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with _Operations() as seen:
        out = call(model, inputs)
    found, last = [], inputs
    weights: dict[int, str] = {}  # by the identity of their transposes
    for function, args, result in seen.made:
        if function is _aten.t.default and id(args[0]) in names:
            weights[id(result)] = names[id(args[0])]
            continue
        if layer := _layer(function, args, last, names, weights):
            found.append(layer)
        elif found or function is not _aten.view.default or result.shape != last.flatten(1).shape:
            return ()
        last = result
    used = [name for layer in found for name in (layer.weight, layer.bias) if name]
    return tuple(found) if last is out and len(used) == len(set(used)) else ()


def _layer(
    function: Any, args: Sequence[Any], last: Tensor, names: Mapping[int, str], weights: Mapping[int, str]
) -> Layer | None:
    """The layer that an operation is, if it takes what the last one gave."""
    if function in _KINDS and args[0] is last:
        return Layer(_KINDS[function])
    if function is _aten.mm.default and args[0] is last and id(args[1]) in weights:
        return Layer("linear", weights[id(args[1])])
    if function is _aten.addmm.default and len(args) == 3 and args[1] is last and {id(args[0])} <= names.keys():
        return Layer("linear", weights[id(args[2])], names[id(args[0])]) if id(args[2]) in weights else None
    return None


class PlainNetwork:
    """A network of such layers with the clients' updates.

    Args:
        model: has the frozen weights.
        blocks: what is trained; all of it is in ``layers``.
        layers: from `layers_of`.
        trained: keys of the trained factors.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[Block], layers: Sequence[Layer], trained: Sequence[str]
    ) -> None:
        self._of = {name: block for block in blocks for name in block.names}
        self._layers, self._trained = layers, trained
        self._parameter = dict(model.named_parameters())
        self._first = next((i for i, layer in enumerate(layers) if layer.kind == "linear"), len(layers))

    def use(self, factors: Mapping[str, Tensor], layout: Layout) -> None:
        """Sets the factors, by `Block.key`, and whose the rows are, in equal shares."""
        self._factors, self._layout = factors, layout

    @torch.no_grad()
    def gradients(
        self, problem: TrainingSetup, inputs: Any, targets: Any, weight: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses (rows,), and the gradients (C, ...) of their sum with ``weight`` (rows,), in order of the factors."""
        rows, kept = inputs.flatten(1), []
        for layer in self._layers:
            rows, needed = self._linear(layer, rows) if layer.kind == "linear" else self._activation(layer, rows)
            kept.append(needed)
        losses, g = _of_loss(problem, rows, targets, weight)
        found: dict[str, Tensor] = {}
        for place in range(len(kept) - 1, self._first - 1, -1):
            layer = self._layers[place]
            if layer.kind == "linear":
                g = self._linear_back(layer, g, kept[place], found, place > self._first)
            else:
                g = _ACTIVATIONS[layer.kind][1](g, kept[place])
        return losses, [found[key] for key in self._trained]

    def _activation(self, layer: Layer, rows: Tensor) -> tuple[Tensor, Any]:
        out = _ACTIVATIONS[layer.kind][0](rows)
        return out, out

    def _linear(self, layer: Layer, x: Tensor) -> tuple[Tensor, Any]:
        w, bias = self._parameter[layer.weight], self._parameter[layer.bias] if layer.bias else None
        out, kept = linear(x, w, bias), None
        if (block := self._of.get(layer.weight)) is not None:
            own = Factors(*(self._factors.get(block.key(letter)) for letter in "ABDZ"))
            a, b = own.pair()
            rows, hidden = add_update(out, x, a, b, block.scale, self._layout, own.before)
            kept = (rows, a, b, hidden, w, own.before)
        if layer.bias in self._of:
            own_bias = self._factors[self._of[layer.bias].key("D")]
            self._layout.split(out).add_(own_bias.unsqueeze(1))
        return out, kept

    def _linear_back(self, layer: Layer, g: Tensor, kept: Any, found: dict[str, Tensor], on: bool) -> Any:
        """The gradient of the layer's input where the way goes on; those of its factors go into ``found``."""
        if layer.bias in self._of:
            found[self._of[layer.bias].key("D")] = self._layout.split(g).sum(1)
        if (block := self._of.get(layer.weight)) is None:
            return linear_back(g, self._parameter[layer.weight]) if on else None
        keys = [next((k for x in letters if (k := block.key(x)) in self._trained), "") for letters in ("AZD", "B")]
        back, *of_factors = gradients(g, kept, block.scale, self._layout, (on, *map(bool, keys)))
        found.update({key: of for key, of in zip(keys, of_factors, strict=True) if of is not None})
        return back


def _of_loss(problem: TrainingSetup, outputs: Tensor, targets: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (rows,), and the gradient of the outputs (rows, outputs), of their sum with ``weight``."""
    if problem.gradient is not None:
        return problem.gradient(outputs, targets, weight)
    with torch.enable_grad():
        outputs.requires_grad_()
        losses = problem.loss(outputs, targets).flatten()
        (g,) = torch.autograd.grad(losses, outputs, weight.to(losses.dtype))
    return losses.detach(), g.contiguous()
