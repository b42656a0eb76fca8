"""Products in bfloat16 on a processor that has no instructions for them: they are made in float32.

PyTorch leaves some of them to a loop over single numbers there: the gradient of a layer's input, 128 rows through
2048 x 2048, takes 3.7 s in place of 8 ms (docs/performance.md). Sums are in float32 either way.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_ENTRIES = 2**22  # of a matrix that are float32 at a time
_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default}
_INTO = {_aten.mm.out: _aten.mm.default, _aten.bmm.out: _aten.bmm.default}  # into memory that is given
_INTO |= {_aten.addmm_.default: _aten.addmm.default, _aten.baddbmm_.default: _aten.baddbmm.default}


def in_float32(model: nn.Module) -> AbstractContextManager[object]:
    """While this is open, a model's products in bfloat16 are made in float32, forth and back, where that is faster."""
    dtypes = {parameter.dtype for parameter in model.parameters()} | {getattr(model, "autocast", None)}
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return InFloat32() if on_cpu and torch.bfloat16 in dtypes and not _is_native() else nullcontext()


@cache
def _is_native() -> bool:
    """Whether PyTorch has products in bfloat16 for this processor."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


class InFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Products of matrices in bfloat16 are made in float32, and rounded."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # as PyTorch asks: else it loads its compiler with the first operation
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _INTO and args[-1].dtype == torch.bfloat16:
            into = kwargs.pop("out", args[0])
            return into.copy_(self._product(_INTO[func], args, kwargs))
        is_ours = func in _PRODUCTS and args[-1].dtype == torch.bfloat16
        return self._product(func, args, kwargs) if is_ours else func(*args, **kwargs)

    def _product(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        *first, right = args
        first, kwargs = tree_map_only(Tensor, _widened, (first, kwargs))
        if right.ndim != 2 or type(right) not in (Tensor, nn.Parameter) or right.numel() <= _ENTRIES:
            product: Tensor = func(*first, _widened(right), **kwargs)
            return product.bfloat16()
        step = max(_ENTRIES // right.shape[0], 1)  # columns: each is a sum of its own
        out = torch.empty(first[-1].shape[0], right.shape[1], dtype=torch.bfloat16)
        for columns in (slice(start, start + step) for start in range(0, right.shape[1], step)):
            added = [x if x.ndim == 0 or x.shape[-1] == 1 else x[..., columns] for x in first[:-1]]
            out[:, columns] = func(*added, first[-1], right[:, columns].float(), **kwargs)
        return out


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x
