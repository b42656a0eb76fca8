"""Equal shares of a batch's rows, for functions that take several clients at once, or one after another."""

from typing import cast

import torch
from torch import Tensor

from fedrac.training.layout import Layout


class Shares:
    """The rows of a batch by client: as many for each, a client's last row again where it has fewer.

    Attributes:
        count: how many clients have rows in the batch, P.
        width: rows of each share, b.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.count, self.width = layout.clients, layout.rows // layout.clients
        if layout.owner is not None:
            self._sort(layout.owner)

    def _sort(self, owner: Tensor) -> None:
        self._present, counts = torch.unique(owner, return_counts=True)
        order, first = owner.argsort(stable=True), counts.cumsum(0) - counts
        self.count, self.width = len(counts), int(counts.max())
        within = torch.arange(self.width, device=owner.device).minimum(counts[:, None] - 1)
        self._table = order[first[:, None] + within]
        real = torch.arange(self.width, device=owner.device) < counts[:, None]
        self._back = torch.empty_like(order).index_copy_(0, order, real.flatten().nonzero()[:, 0])

    @property
    def _equal(self) -> bool:
        return self._layout.owner is None

    def own(self, value: Tensor) -> Tensor:
        """Of (C, ...) that of the clients which have rows, (P, ...)."""
        return value if self._equal else value.index_select(0, self._present)

    def split(self, x: Tensor, dim: int) -> Tensor:
        """Rows by client: (..., R * k, ...) to (..., P, b * k, ...)."""
        if self._equal:
            return _apart(x, dim, self.count)
        taken = _apart(x, dim, self._layout.rows).index_select(dim, self._table.flatten())
        return _apart(taken.flatten(dim, dim + 1), dim, self.count)

    def joined(self, x: Tensor, dim: int) -> Tensor:
        """The inverse: (..., P, b * k, ...) to (..., R * k, ...)."""
        if self._equal:
            return x.flatten(dim, dim + 1)
        each = _apart(x.flatten(dim, dim + 1), dim, self.count * self.width)
        return each.index_select(dim, self._back).flatten(dim, dim + 1)

    def of(self, place: int) -> tuple[int, Layout]:
        """The ``place``-th of the P clients and the layout of its share."""
        if self._equal:
            return place, Layout(1, self.width)
        client, rows = int(self._present[place]), self._table[place]
        places = cast(Tensor, self._layout.place)
        return client, Layout(self._layout.clients, self.width, torch.full_like(rows, client), places[rows])


def _apart(x: Tensor, dim: int, parts: int) -> Tensor:
    """``x`` (..., parts * k, ...) as (..., parts, k, ...)."""
    apart: Tensor = x.unflatten(dim, (parts, -1))  # type: ignore[no-untyped-call]
    return apart
