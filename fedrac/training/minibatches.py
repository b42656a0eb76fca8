"""Which examples a client sees at each of its local steps.

Random reshuffling: every epoch is a fresh permutation, cut into mini-batches; the last one may be short. Orders come
from the stream ``order/round/client``, so where and with whom a client is trained cannot change them. Indices and
masks are made for the whole cohort at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.streams import Index, Stream
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import Shard

# Rows up to which short mini-batches are filled. PyTorch has another function for products of fewer than 400
# multiplications, whose sums round otherwise: with 8 rows and 52 inputs or more it is never called, so that which one
# it is does not follow from the mini-batches of those who are trained beside a client.
_FILLED = 8


@dataclass(frozen=True)
class Steps:
    """The mini-batches of S steps in a row in which the same clients train.

    Attributes:
        first: number of the first step, from 0.
        index: (S, k, b) int64, rows of the data, of the first k clients. A short mini-batch repeats its last row.
        real: (S, k, b) bool, False for such a repetition.
        weight: (S, k, b) float64: 1 / size of the client's mini-batch, or 0.
    """

    first: int
    index: Tensor
    real: Tensor
    weight: Tensor

    @property
    def clients(self) -> int:
        """How many clients still train, k: the first k of the chunk."""
        return self.index.shape[1]


class Minibatches:
    """The mini-batches of a chunk of clients, which are in order of falling number of steps.

    Args:
        shards: of the clients.
        spec: how many examples a mini-batch has, and in which order they come.
        seed, round_: of the orders' streams.
        most: rows of some steps together, at most; one step may have more.
        filled: short mini-batches are filled up to eight rows, or to a whole one; not with ``sampling=full``.
    """

    def __init__(
        self, shards: Sequence[Shard], spec: LocalSpec, seed: int, round_: int, most: int, filled: bool = False
    ) -> None:
        self._spec, self._most = spec, most
        self._least = min(spec.batch_size, _FILLED) if filled and spec.sampling != "full" else 1
        self._sizes = np.array([len(s) for s in shards], dtype=np.int64)
        self._batch = np.minimum(self._sizes, spec.rows_per_step(int(self._sizes.max())))
        self._per_epoch = -(-self._sizes // self._batch)
        self._steps = spec.epochs * self._per_epoch
        rows = [s.index.numpy()[self._order(s, seed, round_)] for s in shards]
        self._rows = np.concatenate(rows)
        self._start = np.cumsum([0, *map(len, rows[:-1])])

    @property
    def steps(self) -> Tensor:
        """(C,) int64: how many steps each client makes in the round."""
        return torch.from_numpy(self._steps)

    @property
    def examples_seen(self) -> Tensor:
        """(C,) int64: the sum of a client's mini-batch sizes over the round."""
        seen = self._steps * self._batch if self._spec.sampling == "replacement" else self._sizes * self._spec.epochs
        return torch.from_numpy(seen)

    @property
    def first(self) -> Tensor:
        """(1,) int64: a row of the data that is trained on."""
        return torch.from_numpy(self._rows[:1])

    def batches(self) -> Iterator[Steps]:
        """All mini-batches, in order, as many steps at once as have the same clients and have at most ``most`` rows."""
        step = np.arange(int(self._steps.max()))[:, None]
        if self._spec.sampling == "replacement":
            first, counts = step * self._batch, np.broadcast_to(self._batch, (len(step), len(self._batch)))
        else:
            within = step % self._per_epoch * self._batch
            first = step // self._per_epoch * self._sizes + within
            counts = np.minimum(self._batch, self._sizes - within)
        counts = np.where(step < self._steps, counts, 0)
        clients, width = (counts > 0).sum(1), counts.max(1).clip(min=self._least)
        changes = np.flatnonzero((np.diff(clients) != 0) | (np.diff(width) != 0)) + 1
        for begin, end in pairwise([0, *changes.tolist(), len(step)]):
            k, b = int(clients[begin]), int(width[begin])
            most = max(self._most // (k * b), 1)
            for start in range(begin, end, most):
                part = slice(start, min(start + most, end))
                yield self._batches(start, first[part, :k, None], counts[part, :k, None], np.arange(b))

    def _batches(self, begin: int, first: Index, counts: Index, place: Index) -> Steps:
        position = self._start[: first.shape[1], None] + first + np.minimum(place, counts - 1)
        real = place < counts
        return Steps(begin, *map(torch.from_numpy, (self._rows[position], real, real / counts)))

    def _order(self, shard: Shard, seed: int, round_: int) -> Index:
        size, spec = len(shard), self._spec
        if spec.sampling == "full":
            return np.tile(np.arange(size), spec.epochs)
        stream = Stream(seed, "order", round_, shard.client)
        if spec.sampling == "replacement":
            batch = min(size, spec.batch_size)
            return stream.integers(size, spec.epochs * -(-size // batch) * batch)
        epochs = [stream.permutation(size) for _ in range(spec.epochs)]
        return epochs[0] if spec.epochs == 1 else np.concatenate(epochs)


def chunks(sizes: Sequence[int], spec: LocalSpec, most: int) -> list[list[int]]:
    """Places of the clients, most steps first, cut so that no step has more than ``most`` rows."""
    order = np.argsort(-np.asarray(sizes), kind="stable").tolist()  # who has more examples has no fewer steps
    cut: list[list[int]] = []
    while order:  # the first client of a chunk has the widest mini-batches
        clients = max(most // spec.rows_per_step(sizes[order[0]]), 1)
        cut.append(order[:clients])
        order = order[clients:]
    return cut
