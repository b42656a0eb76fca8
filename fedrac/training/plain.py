"""Networks in which every layer takes what the one before it gives: which they are.

Their gradients are written out (`fedrac.training.plain_network`): calling modules and hooks and walking a graph back
takes longer than a small network's products. It is seen from the operations that a model calls; that the gradients are
those of automatic differentiation is found out before the first step (`fedrac.training.probe`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedrac.training.evaluation import call
from fedrac.training.plain_layers import ACTIVATIONS
from fedrac.training.way import Layer

_aten = torch.ops.aten
_KINDS = {getattr(_aten, f"{name}{way}").default: name for name in ACTIVATIONS for way in ("", "_")}


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
        last = result[0] if layer and layer.kind == "norm" else result
    used = [name for layer in found for name in (layer.weight, layer.bias) if name]
    return tuple(found) if last is out and len(used) == len(set(used)) else ()


def is_fixed(model: nn.Module) -> bool:
    """Whether a model always computes what it did once: its modules are PyTorch's or fedrac's, with no hooks."""
    every = nn.modules.module
    return not (every._global_forward_hooks or every._global_forward_pre_hooks) and all(
        type(module).__module__.startswith(("torch.nn.", "fedrac.models."))
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        for module in model.modules()
    )


def _layer(
    function: Any, args: Sequence[Any], last: Tensor, names: Mapping[int, str], weights: Mapping[int, str]
) -> Layer | None:
    """The layer that an operation is, if it takes what the last one gave."""
    if function in _KINDS and args[0] is last:
        return Layer(_KINDS[function])
    if function is _aten.native_layer_norm.default and args[0] is last and len(args[1]) == 1:
        scale, shift = (None if x is None else names.get(id(x)) for x in args[2:4])
        known = (scale is None) == (args[2] is None) and (shift is None) == (args[3] is None)
        return Layer("norm", scale or "", shift, args[4]) if known else None
    if function is _aten.mm.default and args[0] is last and id(args[1]) in weights:
        return Layer("linear", weights[id(args[1])])
    if function is _aten.addmm.default and len(args) == 3 and args[1] is last and {id(args[0])} <= names.keys():
        return Layer("linear", weights[id(args[2])], names[id(args[0])]) if id(args[2]) in weights else None
    return None
