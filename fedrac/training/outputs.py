"""What a model returns, and which part of it are the outputs."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

NAME = "logits"  # as transformers, torchvision and most others call them


def outputs_of(returned: Any) -> Tensor:
    """The outputs among the things that a model returns.

    Args:
        returned: a tensor is what it is. Of a mapping, a named tuple or an object with attributes (transformers'
            ``ModelOutput`` is all three) it is the one called ``logits``, or else the only tensor there is. Of another
            tuple or list it is the first.

    Raises:
        ValueError: there is no tensor, or several and none of this name.
    """
    if isinstance(returned, Tensor):
        return returned
    if isinstance(returned, tuple | list) and not hasattr(returned, "_fields"):
        if returned and isinstance(returned[0], Tensor):
            return returned[0]
        first = f", the first a {type(returned[0]).__name__}" if returned else ""
        raise ValueError(
            f"the model returns a {type(returned).__name__} of {len(returned)}{first}: put the outputs first"
        )
    tensors = {name: value for name, value in _named(returned).items() if isinstance(value, Tensor)}
    if NAME in tensors:
        return tensors[NAME]
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    found = f"with the tensors {', '.join(map(str, tensors))}" if tensors else "without a tensor"
    raise ValueError(
        f"the model returns a {type(returned).__name__} {found}: name the outputs {NAME!r}, or return them alone"
    )


def _named(returned: Any) -> Mapping[Any, Any]:
    if isinstance(returned, Mapping):
        return returned
    if hasattr(returned, "_fields"):
        return dict(zip(returned._fields, returned, strict=True))
    return getattr(returned, "__dict__", {})
