"""Modules that are called with each client's own weights, on its own rows of a cohort's batch."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from fedrac.algorithm.blocks import Block
from fedrac.training.alone import effective
from fedrac.training.dropout import ClientDropout
from fedrac.training.layout import Layout
from fedrac.training.shares import Shares
from fedrac.training.watch import signature
from fedrac.training.way import FIXED, ONE, Call, NotTogether, Unit, within


@dataclass(frozen=True)
class _Own:
    """A trained parameter in a unit: its block, and its name there."""

    block: Block
    name: str


class Units:
    """The units of a model.

    While `attached` is open, calling one calls it for every client: with the client's own effective weights, and with
    the arguments' rows that are the client's. An output has the rows of all clients again, in their order.

    Attributes:
        looped: paths of the units whose clients went one after another, because ``torch.vmap`` cannot do it.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[Block], units: Mapping[str, Unit], dropout: ClientDropout | None
    ) -> None:
        self._model, self._units, self._dropout = model, units, dropout
        self._own = {path: _owned(path, blocks) for path in units}
        self.looped: set[str] = {path for path, unit in units.items() if unit.loop}
        self._weights: dict[str, Tensor] = {}
        self._rows, self._shares = 1, Shares(Layout(1, 1))
        self._inside = False

    def use(self, factors: Mapping[str, Tensor], layout: Layout) -> None:
        """Sets the factors, by `Block.key`, of the next forward pass, and makes the weights of them."""
        self._rows, self._shares = layout.rows, Shares(layout)
        blocks = {own.block.name: own.block for owned in self._own.values() for own in owned}
        self._weights = {
            n: self._shares.own(effective(b, self._model.get_parameter(n), factors)) for n, b in blocks.items()
        }

    @property
    def paths(self) -> frozenset[str]:
        """Those of the units."""
        return frozenset(self._units)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While this is open, the units are of a class that calls them in this way."""
        classes = [(module := self._model.get_submodule(path), type(module)) for path in self._units]
        for (module, kind), path in zip(classes, self._units, strict=True):
            module.__class__ = type(kind.__name__, (kind,), {"__call__": self._called(path, kind)})
        try:
            yield
        finally:
            for module, kind in classes:
                module.__class__ = kind

    def _called(self, path: str, kind: type[nn.Module]) -> Callable[..., Any]:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return kind.__call__(module, *args, **kwargs)
            key, leaves = signature(args, kwargs)
            if (where := self._units[path].calls.get(key)) is None:
                raise NotTogether(f"module {path!r} is called in another way than before")
            self._inside = True
            try:
                return self._each(path, module, where, leaves, tree_flatten((args, kwargs))[1])
            finally:
                self._inside = False

        return call

    def _each(self, path: str, module: nn.Module, where: Call, leaves: list[Any], spec: Any) -> Any:
        where = replace(where, inputs=tuple(map(_shared_or_not, leaves, where.inputs)))
        parts = [self._split(path, x, d) for x, d in zip(leaves, where.inputs, strict=True)]
        weights = {own.name: self._weights[own.block.name] for own in self._own[path]}
        run = _Run(module, weights, parts, where, spec, self._shares)
        if path not in self.looped:
            try:
                with warnings.catch_warnings(), self._drawing_for_none():
                    warnings.simplefilter("error")  # torch warns where it would loop anyway
                    return run.merged(run.together())
            except Exception:
                self.looped.add(path)
        return run.merged(run.apart(self._drawing_for))

    def _split(self, path: str, leaf: Any, dim: int | None) -> Any:
        """A tensor with its rows by client: (..., P, rows of one, ...)."""
        if dim is None:
            return leaf
        if leaf.shape[dim] % self._rows:
            raise NotTogether(f"module {path!r} saw {leaf.shape[dim]} rows for a batch of {self._rows}")
        return self._shares.split(leaf, dim)

    def _drawing_for_none(self) -> Any:
        return self._dropout.refused() if self._dropout else nullcontext()

    def _drawing_for(self, place: int) -> Any:
        return self._dropout.only(*self._shares.of(place), first=place == 0) if self._dropout else nullcontext()


class _Run:
    """One call of a unit for all clients."""

    def __init__(
        self,
        module: nn.Module,
        weights: Mapping[str, Tensor],
        parts: list[Any],
        where: Call,
        spec: Any,
        shares: Shares,
    ) -> None:
        self._module, self._weights, self._parts, self._where = module, weights, parts, where
        self._spec, self._shares = spec, shares
        self._out: list[Any] = []
        self._out_spec: Any = None

    def together(self) -> list[Any]:
        """The outputs' leaves, tensors with the clients in front: (P, ...)."""
        at = [i for i, d in enumerate(self._where.inputs) if d is not None]

        def one(weights: Mapping[str, Tensor], *rows: Tensor) -> list[Tensor]:
            leaves = list(self._parts)
            for i, x in zip(at, rows, strict=True):
                leaves[i] = x
            return [x for x in self._call(weights, leaves) if isinstance(x, Tensor)]

        dims = [self._where.inputs[i] for i in at]
        found = iter(torch.vmap(one, in_dims=(0, *dims))(self._weights, *(self._parts[i] for i in at)))
        return [next(found) if isinstance(x, Tensor) else x for x in self._out]

    def apart(self, drawing_for: Callable[[int], Any]) -> list[Any]:
        """The same, one client after another."""
        outputs = []
        for place in range(self._shares.count):
            own = {name: value[place] for name, value in self._weights.items()}
            leaves = [
                x if d is None else x.select(d, place) for x, d in zip(self._parts, self._where.inputs, strict=True)
            ]
            with drawing_for(place):
                outputs.append(self._call(own, leaves))
        return [torch.stack(each) if isinstance(each[0], Tensor) else each[0] for each in zip(*outputs, strict=True)]

    def _call(self, weights: Mapping[str, Tensor], leaves: list[Any]) -> list[Any]:
        args, kwargs = tree_unflatten(leaves, self._spec)
        self._out, self._out_spec = tree_flatten(functional_call(self._module, dict(weights), args, kwargs))
        return self._out

    def merged(self, leaves: list[Any]) -> Any:
        """The outputs with the rows of all clients in their places."""
        if len(leaves) != len(self._where.outputs):
            raise NotTogether(f"{type(self._module).__name__} gives something else than before")
        return tree_unflatten(
            [
                self._joined(x, d) if isinstance(x, Tensor) else x
                for x, d in zip(leaves, self._where.outputs, strict=True)
            ],
            self._out_spec,
        )

    def _joined(self, x: Tensor, dim: int | None) -> Tensor:
        if dim == ONE:
            return self._shares.joined(x.expand(-1, self._shares.width, *x.shape[2:]), 0)
        assert dim is not None
        return self._shares.joined(x.movedim(0, dim), dim)


def _shared_or_not(leaf: Any, dim: int | None) -> int | None:
    """Where the rows lie: an update may have given every row its own of what all shared."""
    if dim == ONE:
        return None if leaf.shape[0] == 1 else 0
    return None if dim == FIXED else dim


def _owned(path: str, blocks: Sequence[Block]) -> list[_Own]:
    """The blocks that lie in a unit, each by the first of its names there."""
    found = []
    for block in blocks:
        names = [".".join(filter(None, owner)) for owner in block.owners if within(owner[0], path)]
        if names:
            found.append(_Own(block, names[0].removeprefix(f"{path}.")))
    return found
