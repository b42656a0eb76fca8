"""Which examples a client sees at each of its local steps.

Random reshuffling: every epoch is a fresh permutation, cut into mini-batches; the last one may be short. Orders come
from the stream ``order/round/client``, so where and with whom a client is trained cannot change them. Indices and
masks are made for the whole cohort at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedrac.optimizer import LocalSpec
from fedrac.streams import Index, Stream


class HasIndex(Protocol):
    """Anything with a client's id and the (examples,) int64 rows of its data."""

    @property
    def client(self) -> int: ...

    @property
    def index(self) -> Tensor: ...


@dataclass(frozen=True)
class Batch:
    """The mini-batches of one step.

    Attributes:
        clients: how many clients still train, k: the first k of the chunk.
        index: (k, b) int64, rows of the data. A short mini-batch repeats its last row, with weight 0.
        weight: (k, b) float64: 1 / size of the client's mini-batch, or 0.
        counts: (k,) int64, sizes of the mini-batches.
    """

    clients: int
    index: Tensor
    weight: Tensor
    counts: Tensor


class Orders:
    """The mini-batches of a chunk of clients, which are in order of falling number of steps."""

    def __init__(self, shards: Sequence[HasIndex], spec: LocalSpec, seed: int, round_: int) -> None:
        self._spec = spec
        self._sizes = np.array([len(s.index) for s in shards], dtype=np.int64)
        self._batch = np.minimum(self._sizes, spec.rows_per_step(int(self._sizes.max())))
        self._per_epoch = -(-self._sizes // self._batch)
        self._steps = spec.epochs * self._per_epoch
        rows = [s.index.numpy()[self._order(s, seed, round_)] for s in shards]
        self._rows = torch.from_numpy(np.concatenate(rows))
        self._start = np.concatenate([[0], np.cumsum([len(r) for r in rows])[:-1]])
        self.steps = int(self._steps.max())

    @property
    def examples_seen(self) -> Tensor:
        """(C,) int64: the sum of a client's mini-batch sizes over the round."""
        seen = self._steps * self._batch if self._spec.sampling == "replacement" else self._sizes * self._spec.epochs
        return torch.from_numpy(seen)

    def batch(self, step: int) -> Batch:
        """The mini-batches of ``step`` (from 0) of all clients that have such a step."""
        clients = int((self._steps > step).sum())
        size, batch, per_epoch = self._sizes[:clients], self._batch[:clients], self._per_epoch[:clients]
        if self._spec.sampling == "replacement":
            first, counts = step * batch, batch
        else:
            within = step % per_epoch * batch
            first, counts = step // per_epoch * size + within, np.minimum(batch, size - within)
        place = np.arange(counts.max())
        position = (self._start[:clients] + first)[:, None] + np.minimum(place, counts[:, None] - 1)
        weight = (place < counts[:, None]) / counts[:, None]
        return Batch(
            clients, self._rows[torch.from_numpy(position)], torch.from_numpy(weight), torch.from_numpy(counts)
        )

    def _order(self, shard: HasIndex, seed: int, round_: int) -> Index:
        size, spec = len(shard.index), self._spec
        if spec.sampling == "full":
            return np.tile(np.arange(size), spec.epochs)
        stream = Stream(seed, "order", round_, shard.client)
        if spec.sampling == "replacement":
            batch = min(size, spec.batch_size)
            return stream.integers(size, spec.epochs * -(-size // batch) * batch)
        return np.concatenate([stream.permutation(size) for _ in range(spec.epochs)])


def chunks(sizes: Sequence[int], spec: LocalSpec) -> list[list[int]]:
    """Places of the clients, most steps first, cut so that no step has more than ``spec.max_rows`` rows."""
    order = sorted(range(len(sizes)), key=lambda c: (-spec.steps(sizes[c]), -sizes[c]))
    cut: list[list[int]] = []
    for place in order:  # the first client of a chunk has the widest mini-batches
        if not cut or (len(cut[-1]) + 1) * spec.rows_per_step(sizes[cut[-1][0]]) > spec.max_rows:
            cut.append([])
        cut[-1].append(place)
    return cut
