"""A model computes with weights that somebody else has: where it can, it shares their memory."""

import weakref
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_ALIGNMENT = 64  # bytes, as PyTorch allocates


@torch.no_grad()
def use(model: nn.Module, weights: Mapping[str, Tensor], without: Collection[str] = ()) -> None:
    """Has a model compute with these weights.

    A parameter of the same dtype on the same device shares the memory of its weight from now on, so neither the model
    nor its owner may change it in place. Copied are buffers, what a module may write into while it computes, and what
    lies elsewhere in memory than PyTorch would have put it (of a file or a message): products of it round otherwise.
    What a parameter has copied already, it is not given again.

    Args:
        model: its state dict has the same names and shapes.
        weights: by name in the state dict; a tied parameter may have several names, and takes the value of its first.
        without: names of parameters that stay as they are.

    Raises:
        RuntimeError: names or shapes differ.
    """
    mine = model.state_dict()
    if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in weights.items()}:
        model.load_state_dict(weights)  # says what differs
    written = _written(model)
    for name, parameter in model.named_parameters():
        if name in without:
            continue
        value = weights[name]
        alike = (value.dtype, value.device) == (parameter.dtype, parameter.device) and id(parameter) not in written
        if alike and _is_as_allocated(value):
            parameter.data = value
            _copied.pop(parameter, None)
        elif not _has(parameter, value):
            if alike:  # its memory may be that of another owner
                parameter.data = torch.empty_like(value, memory_format=torch.contiguous_format)
            parameter.copy_(value)
            _copied[parameter] = weakref.ref(value), parameter.data_ptr(), parameter._version
    for name, buffer in model.named_buffers():
        if name in weights:
            buffer.copy_(weights[name])


# Of which tensor a parameter is a copy, its memory then, and its version: it counts what has been written there.
_copied: Any = WeakIdKeyDictionary()


def _has(parameter: nn.Parameter, value: Tensor) -> bool:
    """Whether it is a copy of the tensor, and nobody has written into it since."""
    source, place, version = _copied.get(parameter, (None, 0, 0))
    return source is not None and source() is value and (place, version) == (parameter.data_ptr(), parameter._version)


def of(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict, as `use` takes it, in the memory of those parameters that `use` would share."""
    written, mine = _written(model), model.named_parameters(remove_duplicate=False)
    shared = {name for name, parameter in mine if id(parameter) not in written}
    return {name: value if name in shared else value.clone() for name, value in model.state_dict().items()}


def _is_as_allocated(value: Tensor) -> bool:
    return value.is_contiguous() and value.data_ptr() % _ALIGNMENT == 0


def _written(model: nn.Module) -> set[int]:
    """Parameters that their module changes in place while it computes: embeddings with a bound on their norm."""
    return {id(m.weight) for m in model.modules() if getattr(m, "max_norm", None) is not None and hasattr(m, "weight")}
