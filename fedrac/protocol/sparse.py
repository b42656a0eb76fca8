"""Factors of which only the largest entries cross the network, in both directions (`fedrac.algorithm.flasc`).

A node does not follow such factors from round to round: every message has those that its round starts from.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block, trained_shapes
from fedrac.algorithm.method import RoundMethod
from fedrac.algorithm.sparse import SparseVector
from fedrac.loading.told import told
from fedrac.protocol.messages import Shapes, pack, unpack

T = TypeVar("T")


@dataclass(frozen=True)
class SparseCoding:
    """Of the factors that the clients of a round upload: the largest entries of how far each of them went.

    What is trained in full follows them, whole.

    Attributes:
        density: which share of the entries.
        start: by `Block.key`, where they start; what is missing starts at zero. A client starts from what it was sent,
            and the server takes the steps from what it has.
    """

    density: float
    start: Mapping[str, Tensor]

    def form(self, clients: Sequence[int], shapes: Shapes, dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape (k, bytes) and dtype of what those clients upload of factors of these shapes."""
        return (len(clients), upload_bytes(shapes, self.density, dtype.itemsize)), torch.uint8

    def encode(self, clients: Sequence[int], factors: Mapping[str, Tensor]) -> Tensor:
        """Factors (k, ...) of some clients as (k, bytes) uint8."""
        dtype = next(iter(factors.values())).dtype
        moved = {key: (value.double() - self._start(key)).to(dtype) for key, value in _sparse(factors).items()}
        form = vector_of({key: value.shape[1:] for key, value in moved.items()}, self.density, dtype.itemsize)
        coded = torch.stack([torch.from_numpy(form.encode(row.numpy())) for row in pack(moved, 1)])
        whole = [
            value.reshape(len(value), -1).contiguous().view(torch.uint8) for _, value in sorted(_whole(factors).items())
        ]
        return torch.cat([coded, *whole], 1)

    def decode(self, clients: Sequence[int], coded: Tensor, shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
        """The factors (k, ...) of those clients, in ``dtype``; raises ValueError where they are none."""
        form, whole = vector_of(shapes, self.density, dtype.itemsize), _whole(shapes)
        try:
            rows = torch.stack([torch.from_numpy(form.decode(row[: form.size].numpy())) for row in coded])
        except ValueError as error:
            raise ValueError(f"field factors: {error}") from error
        moved = unpack(rows, _sparse(shapes))
        found = {key: (value.double() + self._start(key)).to(dtype) for key, value in moved.items()}
        rest = coded[:, form.size :].flatten().clone().view(dtype).reshape(len(coded), -1)
        return {**found, **unpack(rest, whole)}

    def _start(self, key: str) -> Tensor:
        return self.start.get(key, torch.zeros(())).double()


def _whole(of: Mapping[str, T]) -> dict[str, T]:
    """What is trained in full, of shapes or values by `Block.key`."""
    return {key: value for key, value in of.items() if key.endswith(":D")}


def _sparse(of: Mapping[str, T]) -> dict[str, T]:
    return {key: value for key, value in of.items() if not key.endswith(":D")}


def vector_of(shapes: Mapping[str, Sequence[int]], density: float, width: int) -> SparseVector:
    """How factors of these shapes are sent, one after another in order of name; without what is trained in full.

    Args:
        shapes: by `Block.key`.
        density: which share of the entries.
        width: bytes of a value, 4 or 8.
    """
    return SparseVector(sum(map(math.prod, _sparse(shapes).values())), density, np.dtype(f"f{width}"))


def upload_bytes(shapes: Shapes, density: float, width: int) -> int:
    """How many bytes a client sends of what it trained, of these shapes."""
    return vector_of(shapes, density, width).size + width * sum(map(math.prod, _whole(shapes).values()))


def upload_numbers(shapes: Shapes, density: float) -> int:
    """How many numbers these are, places left out."""
    return vector_of(shapes, density, 4).count + sum(map(math.prod, _whole(shapes).values()))


def as_sent(factors: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """All carried factors, by `Block.key`, with their largest entries alone, as `decode_start` has them."""
    coded, shapes = encode_start(factors, density), {key: tuple(value.shape) for key, value in factors.items()}
    form = vector_of(shapes, density, next(iter(factors.values())).dtype.itemsize)
    return unpack(torch.from_numpy(form.decode(coded.numpy())), shapes)


def encode_start(factors: Mapping[str, Tensor], density: float) -> Tensor:
    """The largest entries of all carried factors, (bytes,) uint8."""
    packed = pack(factors)
    form = vector_of({key: value.shape for key, value in factors.items()}, density, packed.dtype.itemsize)
    return torch.from_numpy(form.encode(packed.numpy()))


def decode_start(
    coded: Tensor, blocks: Iterable[Block], method: RoundMethod, density: float, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The inverse, by `Block.key`, zero where nothing was sent.

    Raises:
        ValueError: it is not what the server would send of factors of these ``blocks``.
    """
    shapes = trained_shapes((block for block in blocks if block.rank is not None), method)
    form = vector_of(shapes, density, dtype.itemsize)
    if coded.dtype != torch.uint8 or tuple(coded.shape) != (form.size,):
        raise told(
            ValueError(f"the factors to start from are {coded.dtype} {tuple(coded.shape)}, not {form.size} bytes")
        )
    try:
        return unpack(torch.from_numpy(form.decode(coded.numpy())), shapes)
    except ValueError as error:
        raise told(error) from error
