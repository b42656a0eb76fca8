"""What clients of different rank upload: each the part of its factors that it trained, one client after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrac.algorithm import returned
from fedrac.algorithm.client_ranks import shapes_of_rank, trained_parts
from fedrac.algorithm.method import Method
from fedrac.protocol.messages import Shapes, pack, unpack


def ranks_of(method: Method, seed: int, bounds: Mapping[int, Sequence[int | None]]) -> dict[int, int]:
    """By client its rank: what the method says, within all its ``bounds``; None and 0 are none.

    Raises:
        ValueError: the method says what is no rank.
    """
    rules = {client: returned.of_rank(method, client, seed) for client in bounds}
    return {client: min(bound for bound in (rules[client], *own) if bound) for client, own in bounds.items()}


def pruned(
    method: Method,
    ranks: Mapping[int, int],
    clients: Sequence[int],
    start: Mapping[str, Tensor],
    factors: Mapping[str, Tensor],
) -> tuple[dict[int, int], dict[str, Tensor]]:
    """The clients of a round whose rank is lower from now on, and what counts of what they found.

    Args:
        method: says which (`Method.ranks_after`).
        ranks: by client, those of the round.
        clients: whose the factors are, (C,).
        start: by `Block.key`, the carried factors that the round started from.
        factors: what the clients found, (C, ...).
    """
    before = [ranks[client] for client in clients]
    after = returned.of_ranks_after(method, before, method.ranks_after(before, start, factors))
    lowered = {client: new for client, old, new in zip(clients, before, after, strict=True) if new < old}
    parts = trained_parts({key: tuple(value.shape[1:]) for key, value in factors.items()}, after) if lowered else {}
    return lowered, {key: value * parts[key] if key in parts else value for key, value in factors.items()}


@dataclass(frozen=True)
class RankedCoding:
    """Of the factors that the clients of a round upload.

    Attributes:
        ranks: by client.
    """

    ranks: Mapping[int, int]

    def form(self, clients: Sequence[int], shapes: Shapes, dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape (N,) and dtype of what those clients upload of factors of these shapes."""
        sizes = [shapes_of_rank(shapes, self.ranks[client]).values() for client in clients]
        return (sum(torch.Size(shape).numel() for shapes in sizes for shape in shapes),), dtype

    def encode(self, clients: Sequence[int], factors: Mapping[str, Tensor]) -> Tensor:
        """Factors (k, ...) of some clients as (N,)."""
        return pack(factors, 1)[self._trained(clients, {key: tuple(value.shape[1:]) for key, value in factors.items()})]

    def decode(self, clients: Sequence[int], coded: Tensor, shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
        """The factors (k, ...) of those clients, zero where they have trained nothing."""
        trained = self._trained(clients, shapes)
        return unpack(torch.zeros(trained.shape, dtype=dtype).masked_scatter_(trained, coded.to(dtype)), shapes)

    def _trained(self, clients: Sequence[int], shapes: Shapes) -> Tensor:
        """(k, M) bool, of the M numbers of whole factors."""
        parts = trained_parts(shapes, [self.ranks[client] for client in clients])
        every = torch.ones((), dtype=torch.bool)
        return pack({k: parts.get(k, every).expand(len(clients), *shape) for k, shape in shapes.items()}, 1)
