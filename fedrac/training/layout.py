"""Whose the rows of a batch are: those of several clients go through a model together."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fedrac.data.batch import sent


@dataclass(frozen=True, eq=False)
class Layout:
    """The clients of a batch's rows.

    A tensor with the batch in front falls into parts, each of which belongs to one client: a client's equal share of
    the rows, or, where clients have any number of rows in any order, every row by itself.

    Attributes:
        clients: how many clients the factors are of, C.
        rows: of the batch, R. A module may have made several rows of each, one after another.
        owner: (R,) int64, the client of each row; None: R / C rows each, those of the first client first.
        place: (R,) int64, which row of its client's mini-batch each of them is; None with ``owner``.
        origin: the same on the CPU, where this one is not there.
    """

    clients: int
    rows: int
    owner: Tensor | None = None
    place: Tensor | None = None
    origin: "Layout | None" = None

    @property
    def parts(self) -> int:
        """How many parts there are: C, or R."""
        return self.clients if self.owner is None else self.rows

    def split(self, rows: Tensor) -> Tensor:
        """What the parts have of ``rows`` (R * k, ..., n): (parts, R * k * ... / parts, n)."""
        return rows.view(self.parts, -1, rows.shape[-1])

    def own(self, factor: Tensor) -> Tensor:
        """Of a factor (C, ...), that of every part: (parts, ...)."""
        return factor if self.owner is None else factor.index_select(0, self.owner)

    def sums(self, found: Tensor) -> Tensor:
        """The sums (C, ...) over every client's parts (parts, ...)."""
        if self.owner is None:
            return found
        return found.new_zeros(self.clients, *found.shape[1:]).index_add_(0, self.owner, found)

    def copies(self, each: int, rows: Tensor) -> bool:
        """Whether a matrix of ``each`` entries would be copied for every row, and is larger than what a row has."""
        return self.owner is not None and each * self.rows > rows.numel()

    @cached_property
    def groups(self) -> list[tuple[int, Tensor]]:
        """Every client that has rows, and which they are, (k,) int64, where clients have any number of rows."""
        assert self.owner is not None
        if self.origin is not None:
            return [(client, sent(at, self.owner.device)) for client, at in self.origin.groups]
        return [(client, (self.owner == client).nonzero()[:, 0]) for client in torch.unique(self.owner).tolist()]

    @cached_property
    def owners(self) -> Tensor:
        """(R,) int64, the client of each row, in any layout."""
        if self.owner is not None:
            return self.owner
        return torch.arange(self.clients).repeat_interleave(self.rows // self.clients)

    @cached_property
    def places(self) -> Tensor:
        """(R,) int64, which row of its client's mini-batch each of them is, in any layout."""
        return self.place if self.place is not None else torch.arange(self.rows // self.clients).repeat(self.clients)

    def to(self, device: torch.device) -> "Layout":
        """The same on a device."""
        if self.owner is None or self.place is None or self.owner.device == device:
            return self
        return Layout(self.clients, self.rows, sent(self.owner, device), sent(self.place, device), self)
