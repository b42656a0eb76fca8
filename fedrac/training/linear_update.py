"""The update of a linear layer for a whole cohort, as one differentiable operation.

Written out by hand because a cohort's step is a handful of small products: left to autograd, their bookkeeping and a
badly laid out gradient take longer than the products. The update is added in place to the shared product with W.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedrac.training.layout import Layout
from fedrac.training.products import add_times, each_times, linear, linear_back, times


class AddUpdate(torch.autograd.Function):
    """``out += s x (B A)^T`` for the R rows of C clients, or ``s x (B A R)^T``.

    out is (R, ..., m), x is (R, ..., n); the layout says whose the rows are. A is (r, n) or (C, r, n); B is (m, r),
    (C, m, r), or None for the identity, where A is the whole update (C, m, n). With ``r`` (k, n), which all share and
    which gets no gradient, A is the core (C, p, k) of a two-sided update. Gradients are computed for x and for the
    factors that ask for them.

    With the frozen W (m, n), ``out`` is ``x W^T`` without a graph of its own, and the gradient of x is that of the
    whole layer: one sum less than if the layer and its update went back apart.
    """

    @staticmethod
    def forward(
        ctx: Any,
        out: Tensor,
        x: Tensor,
        a: Tensor,
        b: Tensor | None,
        scale: float,
        layout: Layout,
        w: Tensor | None,
        r: Tensor | None = None,
    ) -> Tensor:
        """``out`` with the update added in place, (R, ..., m)."""
        rows, hidden = add_update(out.view(-1, out.shape[-1]), x.reshape(-1, x.shape[-1]), a, b, scale, layout, r)
        ctx.save_for_backward(rows, a, b, hidden, w, r)
        ctx.scale, ctx.layout, ctx.shape = scale, layout, x.shape
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the order of `forward`'s arguments, from the one of its result (R, ..., m).

        Raises:
            RuntimeError: second derivatives are asked for.
        """
        if torch.is_grad_enabled():  # as once_differentiable, which takes as long as a small product
            raise RuntimeError("second derivatives of a model with trained factors are not there: use no create_graph")
        kept, wants = ctx.saved_tensors, ctx.needs_input_grad[1:4]
        w, g = kept[4], gradient.reshape(-1, gradient.shape[-1])
        grad_x, grad_a, grad_b = gradients(g, kept, ctx.scale, ctx.layout, wants)
        grad_x = None if grad_x is None else grad_x.view(ctx.shape)
        return gradient if w is None else None, grad_x, grad_a, grad_b, None, None, None, None


def add_update(
    out: Tensor, x: Tensor, a: Tensor, b: Tensor | None, scale: float, layout: Layout, r: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Adds the update to ``out`` (R, m) in place, of ``x`` (R, n); the rest as for `AddUpdate`.

    Returns:
        What `gradients` needs: the rows that met A (R, n or k), and what they became (R, r); None where B is None.
    """
    rows, hidden = x if r is None else linear(x, r), None
    if b is None:
        _add_product(out, rows, a.mT, scale, layout)
    else:
        hidden = _times(rows, a.mT, layout)
        _add_product(out, hidden, b.mT, scale, layout)
    return rows, hidden


def gradients(
    g: Tensor, kept: Sequence[Any], scale: float, layout: Layout, wants: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, A and B as far as ``wants`` has them, from the one of `add_update`'s result, ``g`` (R, m).

    Args:
        kept: rows, A, B, hidden, W and r: what `add_update` was given and what it returned, and the frozen W or None.
    """
    rows, a, b, hidden, w, r = kept
    inner = g if b is None else _times(g, b, layout)
    grad_x = None
    grad_a = _per_client(inner, rows, scale, layout) if wants[1] else None
    grad_b = _per_client(g, hidden, scale, layout) if hidden is not None and wants[2] else None
    if wants[0]:
        grad_x = g.new_zeros(len(g), (a if r is None else r).shape[-1]) if w is None else linear_back(g, w)
        if r is None:
            _add_product(grad_x, inner, a, scale, layout)
        else:
            add_times(grad_x, _times(inner, a, layout), r, scale)
    return grad_x, grad_a, grad_b


def _times(rows: Tensor, matrix: Tensor, layout: Layout) -> Tensor:
    """Rows times a matrix that all clients share, or each client's rows times its own."""
    if matrix.ndim == 2:
        return times(rows, matrix)
    if layout.copies(matrix[0].numel(), rows):
        out = rows.new_zeros(len(rows), matrix.shape[-1])
        _add_product(out, rows, matrix, 1.0, layout)
        return out
    return each_times(layout.split(rows), layout.own(matrix)).flatten(0, 1)


def _add_product(out: Tensor, rows: Tensor, matrix: Tensor, scale: float, layout: Layout) -> None:
    """``out += scale * rows @ matrix``, in place."""
    if matrix.ndim == 2:
        add_times(out, rows, matrix, scale)
    elif layout.copies(matrix[0].numel(), rows):
        parts, sums = layout.split(rows), layout.split(out)
        for client, at in layout.groups:
            sums.index_add_(0, at, parts[at] @ matrix[client], alpha=scale)
    else:
        layout.split(out).baddbmm_(layout.split(rows), layout.own(matrix), alpha=scale)


def _per_client(left: Tensor, right: Tensor, scale: float, layout: Layout) -> Tensor:
    """``scale * left_c^T right_c`` for every client: the gradient of its own factor."""
    if layout.copies(left.shape[-1] * right.shape[-1], right):
        product = left.new_zeros(layout.clients, left.shape[-1], right.shape[-1])
        for client, at in layout.groups:
            a, b = (layout.split(x)[at].flatten(0, 1) for x in (left, right))
            torch.mm(a.mT, b, out=product[client])
    else:
        product = layout.sums(each_times(layout.split(left).mT, layout.split(right)))
    return product if scale == 1.0 else product.mul_(scale)
