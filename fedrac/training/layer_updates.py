"""What an update adds to the output of one layer, for a whole cohort at once.

The input holds the R rows of C clients; a factor is either shared (A: (r, n), B: (m, r), the sketch) or has a cohort
axis (A: (C, r, n), B: (C, m, r), D: (C, m, ...)), the one that is trained. A two-sided block has a core Z: (C, p, k)
between B: (m, p) and A: (k, n). Nothing here forms ``B A``: the rows go through the narrow factor first. All functions
return the update before scaling.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedrac.training.layout import Layout


@dataclass(frozen=True)
class Factors:
    """The factors of one block: A and B, those and Z, or D alone."""

    A: Tensor | None = None
    B: Tensor | None = None
    D: Tensor | None = None
    Z: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "Factors":
        """The same in another dtype."""
        every = (self.A, self.B, self.D, self.Z)
        if all(f is None or f.dtype == dtype for f in every):
            return self
        return Factors(*(None if f is None else f.to(dtype) for f in every))

    def pair(self) -> tuple[Tensor, Tensor | None]:
        """(A, B) of a low-rank update, (Z, B) of a two-sided one; (D as (C, m, n), None) of a full one: B is the
        identity."""
        if self.D is not None:
            return self.D.flatten(2), None
        a = self.A if self.Z is None else self.Z
        assert a is not None
        return a, self.B

    @property
    def before(self) -> Tensor | None:
        """R (k, n), by which rows go before they meet the core of a two-sided update."""
        return None if self.Z is None else self.A


def conv2d(layer: nn.Conv2d, x: Tensor, out: Tensor, factors: Factors, layout: Layout) -> Tensor:
    """The convolution with ``B A`` reshaped to the kernel, groups included: x (R, channels, h, w) to ``out``'s shape.

    Every group of the input meets all rows of A and its own rows of B. (A convolution by A followed by one by B
    would be wrong for groups > 1.)
    """
    a, b = factors.pair()
    groups, parts = layer.groups, layout.parts
    columns = patches(layer, x).reshape(parts, len(x) // parts, groups, -1, out.shape[2] * out.shape[3])
    if factors.before is not None:
        columns = factors.before @ columns
    if b is None:  # a is D: (C, m, n), rows of a group one after another
        update = _per_group(layout.own(a), groups).unsqueeze(-4) @ columns
    else:
        hidden = (a if a.ndim == 2 else layout.own(a)[:, None, None]) @ columns
        update = _per_group(b if b.ndim == 2 else layout.own(b), groups).unsqueeze(-4) @ hidden
    return update.reshape(out.shape)


def _per_group(matrix: Tensor, groups: int) -> Tensor:
    return matrix.reshape(*matrix.shape[:-2], groups, -1, matrix.shape[-1])


def patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The columns of im2col: (rows, channels * kh * kw, positions), channels first, so groups are contiguous."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, _padding(layer), mode=mode)
    return F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)


def _padding(layer: nn.Conv2d) -> list[int]:
    """Padding as ``F.pad`` wants it, last dimension first."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    assert not isinstance(layer.padding, str)
    return [side for size in reversed(layer.padding) for side in (size, size)]


def embedding(layer: nn.Embedding, ids: Tensor, factors: Factors, layout: Layout) -> Tensor:
    """Row ``ids`` of ``B A``: ids (R, ...) to (R, ..., d). The padding row gets no gradient."""
    first, a = (factors.D, None) if factors.D is not None else (factors.B, factors.A)
    assert first is not None
    out = _gather(first, ids, layout)
    for after in (factors.Z, a):
        if after is not None:
            own = after if after.ndim == 2 else layout.own(after)
            out = (out.reshape(layout.parts, -1, out.shape[-1]) @ own).reshape(*ids.shape, own.shape[-1])
    if layer.padding_idx is not None:
        out = torch.where((ids == layer.padding_idx).unsqueeze(-1), out.detach(), out)
    return out


def _gather(table: Tensor, ids: Tensor, layout: Layout) -> Tensor:
    """Rows of a shared table (V, k), or of each client's own (C, V, k)."""
    if table.ndim == 2:
        return F.embedding(ids, table)
    offset = table.shape[1] * layout.own(torch.arange(layout.clients, device=ids.device))
    own = ids.reshape(layout.parts, -1) + offset.unsqueeze(1)
    return F.embedding(own.reshape(ids.shape), table.flatten(0, 1))


def bias(update: Tensor, out: Tensor, rows: int, channel: int, layout: Layout) -> Tensor:
    """Each client's own update of a bias (C, m), once for every one of ``rows`` rows.

    ``channel`` is the dimension of ``out`` that the bias belongs to: 1 for images, -1 otherwise.
    """
    parts, m = layout.parts, update.shape[1]
    shape = [parts, 1] + [1] * (out.ndim - 1)
    shape[1 + channel % out.ndim] = m
    return layout.own(update).reshape(shape).expand(-1, rows // parts, *shape[2:]).reshape(rows, *shape[2:])
