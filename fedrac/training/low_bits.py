"""Weights that are held in 8 or 4 bits: a node computes with them in less memory than they take whole.

A layer's matrix is kept as codes in blocks of 64 numbers, each with its largest magnitude, as bitsandbytes does it (8
bits: arXiv 2110.02861; 4 bits: NF4 of arXiv 2305.14314), and its values are made whenever something computes with it,
on the way forward and on the way back, and not kept. Codes are made on the CPU, of the exact weights, block by block:
the same release of bitsandbytes makes the same ones of the same weights.
"""

import contextlib
import copy
import ctypes
import importlib.util
import logging
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fedrac.training.units import is_plain

BITS = (8, 4)
_NARROWED = ({"dtype": torch.bfloat16}, {"dtype": torch.float16})
_BLOCK = 64  # numbers that share a scale
_ENTRIES = 2**18  # that are coded at once
_MMAP_THRESHOLD, _LARGE = -3, 2**20  # of mallopt(3); bytes


def check(bits: int | None, dtype: str) -> None:
    """Raises ValueError where weights cannot be held in so many bits; None: they are whole."""
    if bits is None:
        return
    if bits not in BITS:
        raise ValueError(f"runtime.base_bits={bits!r} is unknown: choose 8 or 4, or null for whole weights")
    if dtype == "float64":
        raise ValueError(f"runtime.base_bits={bits} goes with runtime.dtype=float32 or bfloat16, not {dtype}")


def require(bits: int) -> None:
    """Raises ValueError if the package that codes weights is not there."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"runtime.base_bits={bits} needs the package bitsandbytes: pip install 'fedrac[low-bits]'")


@cache
def _functional() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
    from bitsandbytes import functional

    return functional


@dataclass(frozen=True)
class Codes:
    """A matrix in few bits.

    Attributes:
        codes: (m * n * bits / 8, 1) uint8, row by row.
        about: bitsandbytes' ``QuantState``: the scale of every block, what the codes stand for, and the dtype of the
            values.
        shape: (m, n).
    """

    codes: Tensor
    about: Any
    shape: torch.Size

    @classmethod
    def of(cls, matrix: Tensor, bits: int, dtype: torch.dtype, device: torch.device | None = None) -> "Codes":
        """Those of a matrix (m, n) in float32 on the CPU, which is read some rows at a time.

        Args:
            bits: 8 or 4.
            dtype: of the values.
            device: where they are; None: on the CPU.
        """
        functional = _functional()

        def coded(some: Tensor) -> tuple[Tensor, Any]:
            if bits == 8:
                found: tuple[Tensor, Any] = functional.quantize_blockwise(some, blocksize=_BLOCK)
                return found
            return functional.quantize_4bit(some, blocksize=_BLOCK, quant_type="nf4")  # type: ignore[no-any-return]

        parts = [coded(some) for some in torch.split(matrix.detach().reshape(-1), _ENTRIES)]
        codes = torch.cat([each.reshape(-1, 1) for each, _ in parts]).to(device)
        about = parts[0][1]
        about.absmax = torch.cat([each.absmax for _, each in parts])
        # Blocks as rows: of other shapes the CPU's kernel for 4 bits takes wrong scales, or one thread.
        n = matrix.numel()
        about.shape, about.dtype = torch.Size((n // _BLOCK, _BLOCK) if n % _BLOCK == 0 else (n,)), dtype
        about.to(codes.device)
        return cls(codes, about, matrix.shape)

    def to(self, dtype: torch.dtype) -> "Codes":
        """The same with values in another dtype."""
        about = copy.copy(self.about)
        about.dtype = dtype
        return replace(self, about=about)

    def values(self) -> Tensor:
        """The matrix (m, n), made anew."""
        functional = _functional()
        make = functional.dequantize_blockwise if self.about.quant_type is None else functional.dequantize_4bit
        values: Tensor = make(self.codes, self.about)
        return values.view(self.shape)


class LowBits(Tensor):
    """A matrix, or its transpose, that computes as any other and is kept as `Codes`. It cannot be changed in place."""

    codes: Codes
    turned: bool

    @staticmethod
    def __new__(cls, codes: Codes, turned: bool = False) -> "LowBits":
        shape = codes.shape[::-1] if turned else codes.shape
        return Tensor._make_wrapper_subclass(cls, shape, dtype=codes.about.dtype, device=codes.codes.device)

    def __init__(self, codes: Codes, turned: bool = False) -> None:
        self.codes, self.turned = codes, turned

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What is only looked at in another way stays in few bits, also where it is kept for the way back."""
        if func is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].turned)
        if func is torch.ops.aten.t.default:
            return cls(args[0].codes, not args[0].turned)
        if func is torch.ops.aten._to_copy.default and kwargs in _NARROWED:  # autocast
            return cls(args[0].codes.to(kwargs["dtype"]), args[0].turned)
        if func._schema.is_mutable and isinstance(args[0], cls):
            raise RuntimeError(f"weights that are held in few bits cannot be changed in place ({func})")
        args, kwargs = tree_map_only(cls, cls.whole, (args, kwargs or {}))
        return func(*args, **kwargs)

    def whole(self) -> Tensor:
        """Its values, in memory of their own."""
        values = self.codes.values()
        return values.t() if self.turned else values


class LowBitWeights:
    """The linear layers of a model whose weights it holds in few bits.

    Those of a head, and weights that several modules share (an embedding's, say), stay whole.

    Args:
        model: as it was built, on its device and in its dtype.
        bits: 8 or 4.
    """

    def __init__(self, model: nn.Module, bits: int) -> None:
        require(bits)
        _hand_back()
        self._model, self._bits = model, bits
        self._places = dict(_places(model))
        self._coded: dict[str, weakref.ref[Tensor]] = {}  # of which weights the model has the codes

    def use(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Codes what has changed of ``weights``, by name in the state dict, in the master dtype.

        Returns:
            The names of those that the model holds in this way.
        """
        for name, layer in self._places.items():
            before = self._coded.get(name)
            if before is None or before() is not weights[name]:
                old, value = layer.weight, weights[name]
                layer.weight = None  # type: ignore[assignment]  # its memory, before the new one takes some
                codes = Codes.of(value, self._bits, old.dtype, old.device)
                layer.weight = nn.Parameter(LowBits(codes), old.requires_grad)
                self._coded[name] = weakref.ref(value)
        return set(self._places)


def _hand_back() -> None:
    """Has glibc give what is freed of large blocks back to the system: it would keep most of what values took."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)


def _places(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Name in the state dict and layer of each weight that can be held in few bits."""
    heads = tuple(getattr(model, "heads", ()))
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [
        (f"{path}.weight".removeprefix("."), layer)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and is_plain(layer)
        and owners[id(layer.weight)] == 1
        and not any(path == head or path.startswith(f"{head}.") for head in heads)
    ]
