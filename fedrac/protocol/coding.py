"""What a client uploads, and what a round's mean is sent as: whole numbers, or a few bits for each.

A client codes what it trained before it leaves, after all clipping and noise of its own; the server decodes it before
anything else is done with it. Coded is the difference from where the round started, which both ends know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.method import RoundMethod
from fedrac.algorithm.round_start import start_of_round
from fedrac.algorithm.rounding import Rounding
from fedrac.algorithm.state import ServerState
from fedrac.protocol.messages import Shapes, pack, unpack
from fedrac.protocol.sparse import SparseCoding


@dataclass(frozen=True)
class CodedRound:
    """The round of which something is coded.

    Attributes:
        seed: the run's.
        number: of the round.
        blocks: what is trained.
        method: what it does in the round.
        sketches: by `Block.sketch_key`, those of the round.
        state: from which the round starts.
    """

    seed: int
    number: int
    blocks: Sequence[Block]
    method: RoundMethod
    sketches: Mapping[str, Tensor]
    state: ServerState

    def uploads(self, bits: int | None) -> "UploadCoding | SparseCoding | None":
        """How factors are uploaded in so many bits, or sparsely where the method has it; None: whole."""
        if (densities := self.method.method.densities) is not None:
            return SparseCoding(densities.upload, self._start())
        return None if bits is None else UploadCoding(bits, self.seed, self.number, self._start())

    def means(self, bits: int | None) -> "MeansCoding":
        """How the round's means are sent and kept."""
        start = {} if bits is None else self._start()
        return MeansCoding(bits, self.seed, self.number, start, self._master)

    @property
    def _master(self) -> torch.dtype:
        return self.state.weights[self.blocks[0].name].dtype

    def _start(self) -> Mapping[str, Tensor]:
        """By `Block.key`, where factors start, in the master dtype; what is missing starts at zero."""
        if self.method.merge and self.method.train != "both":
            return {}
        carried = self.state.factors
        return start_of_round(self.blocks, self.method, self.sketches, carried, self._master, False).trained


@dataclass(frozen=True)
class UploadCoding:
    """Of the factors that the clients of a round upload.

    Attributes:
        bits: of a number.
        seed: the run's.
        round: whose factors they are.
        start: by `Block.key`, where they start; what is missing starts at zero.
    """

    bits: int
    seed: int
    round: int
    start: Mapping[str, Tensor]

    def size(self, shapes: Shapes) -> int:
        """Bytes of one client's factors of these shapes."""
        return self._rounding(0).size(shapes)

    def form(self, clients: Sequence[int], shapes: Shapes, dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape (k, `size`) and dtype of what those clients upload of factors of these shapes."""
        return (len(clients), self.size(shapes)), torch.uint8

    def encode(self, clients: Sequence[int], factors: Mapping[str, Tensor]) -> Tensor:
        """Factors (k, ...) of some clients as (k, `size`) uint8."""
        moved = {key: _less(value, self.start.get(key)) for key, value in factors.items()}
        rows = [
            self._rounding(client).encode({key: value[place].numpy() for key, value in moved.items()})
            for place, client in enumerate(clients)
        ]
        return torch.stack([torch.from_numpy(row) for row in rows])

    def decode(self, clients: Sequence[int], coded: Tensor, shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
        """The factors (k, ...) of those clients, in ``dtype``."""
        rows = [self._rounding(client).decode(row.numpy(), shapes) for client, row in zip(clients, coded, strict=True)]
        return {
            key: _plus(torch.stack([torch.from_numpy(row[key]) for row in rows]), self.start.get(key)).to(dtype)
            for key in sorted(shapes)
        }

    def _rounding(self, client: int) -> Rounding:
        return Rounding(self.bits, self.seed, ("upload", self.round, client))


@dataclass(frozen=True)
class MeansCoding:
    """Of the means that a round sends out: rounded once, at the server, so that all nodes have the same bits.

    Attributes:
        bits: of a number; None: they are packed as they are.
        seed, round, start: as of `UploadCoding`.
        master: the dtype of the means.
    """

    bits: int | None
    seed: int
    round: int
    start: Mapping[str, Tensor]
    master: torch.dtype

    def encode(self, means: Mapping[str, Tensor]) -> Tensor:
        """All means of a round: (N,) in the master dtype, or (bytes,) uint8."""
        if self.bits is None:
            return pack(means)
        moved = {key: _less(value, self.start.get(key)).numpy() for key, value in means.items()}
        return torch.from_numpy(self._rounding(self.bits).encode(moved))

    def decode(self, coded: Tensor, shapes: Shapes) -> dict[str, Tensor]:
        """The means, by `Block.key`, in the master dtype."""
        if self.bits is None:
            return unpack(coded, shapes)
        found = self._rounding(self.bits).decode(coded.numpy(), shapes)
        return {key: _plus(torch.from_numpy(x), self.start.get(key)).to(self.master) for key, x in found.items()}

    def _rounding(self, bits: int) -> Rounding:
        return Rounding(bits, self.seed, ("download", self.round))


def _less(value: Tensor, start: Tensor | None) -> Tensor:
    return value.double() if start is None else value.double() - start.double()


def _plus(value: Tensor, start: Tensor | None) -> Tensor:
    return value if start is None else value + start.double()
