"""What a model does with its parameters and its batch, seen by watching it: no layer is taken for what it is called.

Two passes without any training, over different numbers of rows. Which module was running when a function got a trained
parameter: that module reads it. Which dimension of a tensor changed with the number of rows: there the batch lies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_iter

from fedrac.algorithm.blocks import Block
from fedrac.training.way import FIXED, ONE, Call, Signature

_Shape = tuple[int, ...] | None


@dataclass
class Seen:
    """What was seen.

    Attributes:
        readers: by `Block.name`, paths of the modules that read the parameter.
        calls: by path and signature, where the batch lies in each call of the module; a module is missing if that
            cannot be said.
        dtypes: in which something was computed.
    """

    readers: dict[str, set[str]] = field(default_factory=dict)
    calls: dict[str, dict[Signature, list[Call]]] = field(default_factory=dict)
    dtypes: set[torch.dtype] = field(default_factory=set)


def signature(args: Any, kwargs: Any) -> tuple[Signature, list[Any]]:
    """That of a call, and the leaves of its arguments."""
    leaves, spec = tree_flatten((args, kwargs))
    return (str(spec), tuple(x.ndim if isinstance(x, Tensor) else None for x in leaves)), leaves


def watch(model: nn.Module, blocks: Sequence[Block], passes: Mapping[int, Callable[[], object]]) -> Seen:
    """Watches the two ``passes``, by their number of rows."""
    readers = _Readers(model, blocks)
    records = []
    for function in passes.values():
        with _recorded(model, readers) as record, readers:
            function()
        records.append(record)
    seen = Seen(readers.found, dtypes=readers.dtypes)
    for path in set(records[0]) & set(records[1]):
        calls = _compared(records[0][path], records[1][path], tuple(passes))
        if calls is not None:
            seen.calls[path] = calls
    return seen


class _Readers(TorchFunctionMode):
    """Notes the module at whose turn a function makes of a parameter something that depends on its value."""

    def __init__(self, model: nn.Module, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.parameters = {id(model.get_parameter(b.name)): b.name for b in blocks}
        self.found: dict[str, set[str]] = {b.name: set() for b in blocks}
        self.stack = [""]
        self.dtypes: set[torch.dtype] = set()
        self._model = model

    def __enter__(self) -> Any:
        self._before = {name: self._model.get_parameter(name).requires_grad for name in self.found}
        for name in self.found:
            self._model.get_parameter(name).requires_grad_(True)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for name, before in self._before.items():
            self._model.get_parameter(name).requires_grad_(before)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.dtypes |= {x.dtype for x in tree_iter(out) if isinstance(x, Tensor) and x.is_floating_point()}
        read = {self.parameters[id(x)] for x in tree_iter((args, kwargs)) if id(x) in self.parameters}
        if read and any(isinstance(x, Tensor) and x.requires_grad for x in tree_iter(out)):
            for name in read:
                self.found[name].add(self.stack[-1])
        return out


@contextmanager
def _recorded(model: nn.Module, readers: _Readers) -> Iterator[dict[str, list[Any]]]:
    """While this is open: the calls of every module, with the shapes of what they take and give."""
    record: dict[str, list[Any]] = {}
    handles, waiting = [], []

    def before(path: str, args: Any, kwargs: Any) -> None:
        readers.stack.append(path)
        key, leaves = signature(args, kwargs)
        waiting.append((key, _shapes(leaves)))

    def after(path: str, out: Any) -> None:
        readers.stack.pop()
        key, shapes = waiting.pop()
        record.setdefault(path, []).append((key, shapes, _shapes(tree_flatten(out)[0])))

    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles += [
            module.register_forward_pre_hook(
                lambda m, a, k, path=path: before(path, a, k), prepend=True, with_kwargs=True
            ),
            module.register_forward_hook(lambda m, a, out, path=path: after(path, out), always_call=True),
        ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _shapes(leaves: Sequence[Any]) -> tuple[_Shape, ...]:
    return tuple(tuple(x.shape) if isinstance(x, Tensor) else None for x in leaves)


def _compared(first: list[Any], second: list[Any], rows: tuple[int, ...]) -> dict[Signature, list[Call]] | None:
    """The calls of one module in both passes; None: they are not alike, or there is a tensor that mixes."""
    if len(first) != len(second):
        return None
    found: dict[Signature, list[Call]] = {}
    for (key, inputs, outputs), (other, inputs2, outputs2) in zip(first, second, strict=True):
        if key != other or len(outputs) != len(outputs2):
            return None
        try:
            call = Call(_dims(inputs, inputs2, rows), _dims(outputs, outputs2, rows))
        except LookupError:
            return None
        found.setdefault(key, []).append(call)
    return found


def _dims(first: Sequence[_Shape], second: Sequence[_Shape], rows: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(_dim(a, b, rows) for a, b in zip(first, second, strict=True))


def _dim(first: _Shape, second: _Shape, rows: tuple[int, ...]) -> int | None:
    """The dimension that goes with the number of rows; `ONE` or `FIXED`: there is none."""
    if first is None or second is None:
        return None
    changed = [d for d, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if not changed:
        return ONE if first[:1] == (1,) else FIXED
    if len(changed) > 1 or first[changed[0]] % rows[0] or first[changed[0]] * rows[1] != second[changed[0]] * rows[0]:
        raise LookupError(f"shapes {first} and {second} of {rows} rows")
    return changed[0]
