"""What a step of a plain network computes into, and how many rows it has."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

_FEWEST = 16  # rows: MKL has other functions for fewer, and for what is left of a column beyond a multiple of four


@dataclass(frozen=True)
class Size:
    """How many rows a step has.

    Attributes:
        clients: C, who have any.
        each: b, rows of each of them.
    """

    clients: int
    each: int

    @cached_property
    def total(self) -> int:
        """R, with those that fill it up, so that a client finds the same bits whoever is beside it."""
        return max(_FEWEST, -(-self.clients * self.each // 4) * 4)


class Rows:
    """What a layer takes or gives, and views of it, which are made once.

    Attributes:
        all: (R, n), the clients' rows, and those that fill them up: finite numbers that nobody reads.
        size: of the step.
    """

    def __init__(self, values: Tensor, size: Size) -> None:
        self.all, self.size = values, size

    @cached_property
    def real(self) -> Tensor:
        """(C * b, n), those of the clients."""
        return self.all[: self.size.clients * self.size.each]

    @cached_property
    def each(self) -> Tensor:
        """(C, b, n)."""
        return self.real.view(self.size.clients, self.size.each, -1)

    @cached_property
    def turned(self) -> Tensor:
        """(C, n, b)."""
        return self.each.mT


class Memory:
    """What is computed into, by name; steps of fewer rows have the same memory."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._held = like.new_empty(0), dict[str, Tensor]()

    def of(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape; there is one of a name at a time."""
        count = math.prod(shape)
        if name not in self._held or self._held[name].numel() < count:
            self._held[name] = self._like.new_zeros(count)
        return self._held[name][:count].view(shape)

    def rows(self, name: str, size: Size, width: int) -> Rows:
        """Rows (R, width)."""
        return Rows(self.of(name, size.total, width), size)
