"""The layers of a plain network for all clients at once, in memory that stays from step to step.

A step of a small network is some thirty operations of a few microseconds each: making their results, and views of them,
anew takes longer than they do. What is computed is that of `fedrac.training.linear_update`.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.training.layer_updates import Factors
from fedrac.training.plain_memory import Memory, Rows, Size
from fedrac.training.products import by_onednn, each_times, suits
from fedrac.training.way import Layer

_aten = torch.ops.aten

# What an activation makes of its input, in place, and of the gradient g of its output, in place, with that output.
ACTIVATIONS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu_, lambda g, out: _aten.threshold_backward.grad_input(g, out, 0, grad_input=g)),
    "tanh": (torch.tanh_, lambda g, out: _aten.tanh_backward.grad_input(g, out, grad_input=g)),
    "sigmoid": (torch.sigmoid_, lambda g, out: _aten.sigmoid_backward.grad_input(g, out, grad_input=g)),
}


class _Layer:
    """What all layers do.

    Attributes:
        of_a_step: names of its attributes that belong to the step, or to the round.
    """

    of_a_step: tuple[str, ...] = ()

    def release(self) -> None:
        """Lets go of weights, factors and rows: there are layers for many sizes, and each would hold some."""
        for name in self.of_a_step:
            self.__dict__.pop(name, None)


class Activation(_Layer):
    """An activation, in the memory of the layer before it where that is no other activation."""

    of_a_step = ("_out",)

    def __init__(self, kind: str, number: int, size: Size, memory: Memory, copies: bool) -> None:
        self._forth, self._back = ACTIVATIONS[kind]
        self._name, self._size, self._memory, self._copies = f"{number} out", size, memory, copies

    def bind(self, parameters: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
        """It has neither."""

    def forward(self, rows: Rows) -> Rows:
        """What it gives of rows (R, n): (R, n)."""
        if self._copies:
            mine = self._memory.rows(self._name, self._size, rows.all.shape[1])
            mine.all.copy_(rows.all)
            rows = mine
        self._forth(rows.all)
        self._out = rows.all
        return rows

    def back(self, g: Rows, found: dict[str, Tensor]) -> Rows:
        """The gradient of its input of that of its output, (R, n), in the memory of that."""
        self._back(g.all, self._out)
        return g


class Norm(_Layer):
    """A layer's numbers brought to mean 0 and variance 1, with a scale and a shift that stay as they are."""

    of_a_step = ("_own", "_rows", "_kept")

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def bind(self, parameters: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
        """Sets scale and shift (n,), where it has them."""
        self._own = parameters.get(self._layer.weight), parameters.get(self._layer.bias or "")

    def forward(self, rows: Rows) -> Rows:
        """What it gives of rows (R, n): (R, n)."""
        self._rows, self._width = rows, rows.all.shape[1:]
        out, *self._kept = torch.native_layer_norm(rows.all, self._width, *self._own, self._layer.eps)
        return Rows(out, rows.size)

    def back(self, g: Rows, found: dict[str, Tensor]) -> Rows:
        """The gradient of its input of that of its output, (R, n)."""
        of_input = [True, False, False]
        back = _aten.native_layer_norm_backward(g.all, self._rows.all, self._width, *self._kept, *self._own, of_input)
        return Rows(back[0], g.size)


class Linear(_Layer):
    """A linear layer with the clients' update ``s x (B A)^T`` or ``s x (B Z R)^T``.

    Args:
        layer: names of weight and bias.
        number: its place.
        blocks: by name, the parameters that are trained.
        trained: keys of the trained factors.
        size: of a step.
        memory: of the network.
        on: whether the gradient of its input is wanted.
    """

    of_a_step = ("_w", "_bias", "_w_turned", "_r", "_a", "_b", "_a_turned", "_b_turned", "_own_bias", "_rows")

    def __init__(
        self,
        layer: Layer,
        number: int,
        blocks: Mapping[str, Block],
        trained: Collection[str],
        size: Size,
        memory: Memory,
        on: bool,
    ) -> None:
        self._layer, self._size, self._memory, self._on, self._number = layer, size, memory, on, number
        self._block, own = blocks.get(layer.weight), blocks.get(layer.bias or "")
        self._bias_key = own.key("D") if own is not None else ""
        self._keys = [self._trained(letters, trained) for letters in ("AZD", "B")]
        self._made = False

    def _trained(self, letters: str, trained: Collection[str]) -> str:
        keys = [] if self._block is None else [self._block.key(letter) for letter in letters]
        return next((key for key in keys if key in trained), "")

    def bind(self, parameters: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> None:
        """Sets weights (m, n) and (m,), and the factors by `Block.key`: those of all, or (C, ...)."""
        self._w, self._bias = parameters[self._layer.weight], parameters.get(self._layer.bias or "")
        self._w_turned = self._w.t()  # one of few bits stays one
        self._r: Tensor | None = None
        if self._block is not None:
            own = Factors(*(factors.get(self._block.key(letter)) for letter in "ABDZ"))
            (a, b), self._r = own.pair(), own.before
            self._a, self._b = a, b
            self._a_turned, self._b_turned = a.mT, None if b is None else b.mT
        self._own_bias = factors[self._bias_key].unsqueeze(1) if self._bias_key else None
        if not self._made:
            self._make()

    def _make(self) -> None:
        """What it computes into: it follows from the shapes, which stay."""
        memory, size, name = self._memory, self._size, str(self._number)
        m, n = self._w.shape
        self._out, self._grad_x = memory.rows(f"{name} out", size, m), None
        self._fast = suits(self._out.all, self._w)
        if self._on:
            self._grad_x = memory.rows(f"{name} grad", size, n)
        if self._block is not None:
            if self._r is not None:
                self._fast_r = suits(self._out.all, self._r)
                self._met, self._met_grad = (memory.rows(f"{name} {x}", size, len(self._r)) for x in ("met", "back"))
            if self._b is not None:
                self._hidden, self._inner = (
                    memory.rows(f"{name} {x}", size, self._a.shape[-2]) for x in ("hidden", "inner")
                )
            shapes = {"A": self._a.shape[-2:], "B": (0, 0) if self._b is None else self._b.shape[-2:]}
            self._grads = [memory.of(f"{name} {x}", size.clients, *shape) for x, shape in shapes.items()]
        self._made = True

    def forward(self, rows: Rows) -> Rows:
        """What it gives of rows (R, n): (R, m)."""
        self._rows = rows
        out = _product(rows, self._w, self._w_turned, self._bias, self._out, self._fast)
        if self._block is not None:
            if self._r is not None:
                self._rows = _product(rows, self._r, self._r.mT, None, self._met, self._fast_r)
            if self._b_turned is None:
                out.each.baddbmm_(self._rows.each, self._a_turned, alpha=self._block.scale)
            else:
                _times(self._rows, self._a_turned, self._hidden)
                _add_times(out, self._hidden, self._b_turned, self._block.scale)
        if self._own_bias is not None:
            out.each.add_(self._own_bias)
        return out

    def back(self, g: Rows, found: dict[str, Tensor]) -> Rows | None:
        """The gradient of its input (R, n), if that is wanted, of that of its output (R, m).

        Those of its factors (C, ...) go into ``found``.
        """
        if self._bias_key:
            found[self._bias_key] = g.each.sum(1)
        if self._block is None:
            return self._through(g) if self._grad_x is not None else None
        inner = g if self._b is None else _times(g, self._b, self._inner)
        if self._keys[0]:
            found[self._keys[0]] = self._gradient(inner, self._rows, 0)
        if self._keys[1]:
            found[self._keys[1]] = self._gradient(g, self._hidden, 1)
        if self._grad_x is None:
            return None
        grad_x = self._through(g)
        if self._r is None:
            _add_times(grad_x, inner, self._a, self._block.scale)
        else:
            _add_times(grad_x, _times(inner, self._a, self._met_grad), self._r, self._block.scale)
        return grad_x

    def _through(self, g: Rows) -> Rows:
        assert self._grad_x is not None
        return _product(g, self._w_turned, self._w, None, self._grad_x, self._fast)

    def _gradient(self, left: Rows, right: Rows, which: int) -> Tensor:
        """``s left_c^T right_c`` of every client, (C, ...)."""
        assert self._block is not None
        grad = _bmm(left.turned, right.each, self._grads[which])
        return grad if self._block.scale == 1.0 else grad.mul_(self._block.scale)


def _product(rows: Rows, w: Tensor, turned: Tensor, bias: Tensor | None, out: Rows, fast: bool) -> Rows:
    """``rows W^T + bias`` with a matrix W (m, n) that all share, and its transpose."""
    if fast:
        return Rows(by_onednn(rows.all, w, bias), rows.size)  # it takes no memory to compute into
    if bias is None:
        torch.mm(rows.all, turned, out=out.all)
    else:
        torch.addmm(bias, rows.all, turned, out=out.all)
    return out


def _times(rows: Rows, matrix: Tensor, out: Rows) -> Rows:
    """``out = rows @ matrix``, with one matrix for all, or each client's own."""
    if matrix.ndim == 2:
        torch.mm(rows.all, matrix, out=out.all)
    else:
        _bmm(rows.each, matrix, out.each)
    return out


def _bmm(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """``out = left_c @ right_c``."""
    if len(left) == 1 and right.shape[2] == 1:  # PyTorch has another function for them, unless there are two
        return out.copy_(each_times(left, right))
    return torch.bmm(left, right, out=out)


def _add_times(out: Rows, rows: Rows, matrix: Tensor, scale: float) -> None:
    """``out += scale * rows @ matrix``, likewise."""
    if matrix.ndim == 2:
        out.all.addmm_(rows.all, matrix, alpha=scale)
    else:
        out.each.baddbmm_(rows.each, matrix, alpha=scale)
