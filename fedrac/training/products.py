"""Products with frozen weights, by the faster of the two libraries that PyTorch has for them.

What a row becomes, of rows (R, n) on a CPU, does not depend on the rows beside it, nor on the number of threads: a
client of a plain network finds the same to the last digit beside whomever it trains (docs/performance.md says where).

PyTorch leaves float32 products on a CPU to MKL. On a processor with AVX-512 that is not Intel's, oneDNN, which it has
for convolutions, makes them in half the time (docs/performance.md). With small matrices calls take longer than they
save.
"""

import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST = 2**15  # numbers of a matrix, from which on products with it are oneDNN's
_SMALL = 2**17  # and up to which they are where the processor has no AVX-512
_ROWS = 16  # of a product, at least: MKL has other functions for fewer
_DTYPES = (torch.float32, torch.float32)
_WHOLE = (Tensor, nn.Parameter)  # not weights that are held in few bits


@cache
def _most() -> float:
    """Numbers of a matrix, up to which products with it are oneDNN's; 0: there is no oneDNN, or MKL is the faster one.

    MKL keeps to AVX2 where the maker is another one, and is the faster one where there is no more. There only matrices
    of small networks are oneDNN's, so that these find the same as with AVX-512.
    """
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    about = _processor()
    if not both or about.get("vendor_id", "GenuineIntel") == "GenuineIntel" or not _can(torch.ones(2, 3)):
        return 0
    return math.inf if "avx512f" in about.get("flags", "").split() else _SMALL


def _can(some: Tensor) -> bool:
    """Whether this PyTorch has the operation, which it keeps for its own compiler."""
    try:
        return torch.equal(by_onednn(some, some, None), some @ some.mT)
    except (AttributeError, RuntimeError):
        return False


def _processor() -> dict[str, str]:
    """What the first processor says of itself; nothing where that is not known."""
    try:
        text = Path("/proc/cpuinfo").read_text() if platform.machine() == "x86_64" else ""
    except OSError:
        return {}
    lines = text.partition("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def suits(x: Tensor, w: Tensor) -> bool:
    """Whether a product is oneDNN's. It must not follow from the number of rows: from who is trained beside whom."""
    if not _LEAST <= w.numel() <= _most():
        return False
    ours = type(w) in _WHOLE and (x.dtype, w.dtype) == _DTYPES and x.device.type == w.device.type == "cpu"
    return ours and not torch.is_autocast_enabled("cpu")


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + bias``, (..., m) of x (..., n) and W (m, n); it is not differentiated.

    A result may differ from PyTorch's in the last digits, and does not depend on who asks for it.
    """
    product = by_onednn if suits(x, w) else F.linear
    return _of_enough(x, lambda rows: product(rows, w, bias))


def linear_back(g: Tensor, w: Tensor) -> Tensor:
    """``g W``, (..., n) of g (..., m) and W (m, n): the gradient of what `linear` was given."""
    if suits(g, w):
        return _of_enough(g, lambda rows: by_onednn(rows, w.mT, None))
    return _of_enough(g, lambda rows: rows @ w)


def times(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix``, (R, m) of rows (R, n) and a small matrix (n, m), as independent of the rest as `linear`."""
    if matrix.shape[1] > 1:
        return _of_enough(rows, lambda x: x @ matrix)
    count = rows.shape[0]
    if rows.ndim != 2 or rows.device.type != "cpu" or not (over := -count % 4):
        return rows @ matrix
    return (F.pad(rows, (0, 0, 0, over)) @ matrix)[:count]  # MKL goes through the rows of one column by fours


def add_times(out: Tensor, rows: Tensor, matrix: Tensor, scale: float) -> None:
    """``out += scale * rows @ matrix`` in place, of out (R, m); the rest as for `times`."""
    if not (missing := _missing(rows)):
        out.addmm_(rows, matrix, alpha=scale)
        return
    filled = F.pad(out, missing).addmm_(F.pad(rows, missing), matrix, alpha=scale)
    out.copy_(filled[: rows.shape[0]])


def each_times(left: Tensor, right: Tensor) -> Tensor:
    """``left_c @ right_c``, (C, k, m) of (C, k, n) and (C, n, m): the same bits for one client alone as for several."""
    if left.shape[0] > 1 or right.shape[2] > 1 or left.device.type != "cpu":
        return torch.bmm(left, right)
    return torch.bmm(left.expand(2, -1, -1), right.expand(2, -1, -1))[:1]  # one client, one column: as in `times`


def _of_enough(x: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """A product of rows (R, n), of which there are made enough: MKL adds up those of a few in another order.

    Which one it is would follow from the number of threads, and from how many rows there are.
    """
    return product(F.pad(x, missing))[: x.shape[0]] if (missing := _missing(x)) else product(x)


def _missing(rows: Tensor) -> tuple[int, ...]:
    """What fills rows (R, n) up, for `F.pad`; nothing where there are enough."""
    few = rows.shape[0] < _ROWS and rows.ndim == 2 and rows.device.type == "cpu"
    return (0, 0, 0, _ROWS - rows.shape[0]) if few else ()


def by_onednn(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + bias`` where `suits` says so."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, w, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    """`linear`, with the gradient of x; W and bias get none, and there are no second derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(w)
        return linear(x, w, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # as in `fedrac.training.linear_update`
            raise RuntimeError("second derivatives of large products with frozen weights are not there")
        (w,) = ctx.saved_tensors
        return linear_back(gradient, w), None, None


@contextmanager
def faster(model: nn.Module) -> Iterator[None]:
    """While this is open, the linear layers of a model compute with `linear`, forth and back, where they are frozen."""
    plain = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)] if _most() else []
    for layer in plain:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in plain:
            del layer.forward


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    w, bias = layer.weight, layer.bias
    frozen = not (w.requires_grad or (bias is not None and bias.requires_grad))
    if not frozen or not suits(x, w):
        return F.linear(x, w, bias)
    found: Tensor = _Linear.apply(x, w, bias)  # type: ignore[no-untyped-call]
    return found
