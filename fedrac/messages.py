"""What the server sends to hosts, as Flower records.

A host is a Flower node; it serves one client or many. One message a round goes to every host that serves a client of
the cohort.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray
from torch import Tensor

from fedrac.method import Method
from fedrac.optimizer import LocalSpec
from fedrac.sketch import SketchSpec


@dataclass(frozen=True)
class RoundSpec:
    """What all hosts of a round are told alike.

    Attributes:
        round: from 1.
        workload: data, partition and model, as `fedrac.host.Host` reads them.
        blocks: name, rank and scale of every trained parameter.
        method: the four choices.
        sketch: law, side and seed of the random factors.
        digest: of this round's sketches; a host that rebuilds others must not train.
        local: how clients train; its ``lr`` is this round's.
    """

    round: int
    workload: Mapping[str, Any]
    blocks: Sequence[Mapping[str, Any]]
    method: Method
    sketch: SketchSpec
    digest: str
    local: LocalSpec


@dataclass(frozen=True)
class RoundPlan:
    """What one host is told in one round.

    Attributes:
        spec: the same for every host.
        clients: the clients that this host trains.
        weights: the global weights, by name.
        factors: by `Block.key`, carried factors (methods that do not merge); else empty.
        sketches: by `Block.name`, the random factors, if they are sent as matrices; else empty.
    """

    spec: RoundSpec
    clients: Sequence[int]
    weights: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]
    sketches: Mapping[str, Tensor]


def to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as a Flower record (NumPy format, no pickle)."""
    return ArrayRecord({name: Array(t.detach().cpu().contiguous().numpy()) for name, t in tensors.items()})


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """The tensors of a record; raises ValueError if its bytes are not arrays."""
    return {name: _tensor(name, array) for name, array in record.items()}


def payload_bytes(record: ArrayRecord) -> int:
    """Bytes of the numbers in a record, headers left out. What a record says of its arrays' shapes is not believed."""
    return sum(max(len(a.data) - _header_bytes(a.data), 0) for a in record.values())


def _header_bytes(data: bytes) -> int:
    """Of NumPy's format 1.0: six bytes of magic, two of version, two of the length of the rest."""
    return 10 + int.from_bytes(data[8:10], "little")


def _tensor(name: str, array: Array) -> Tensor:
    try:
        return torch.from_numpy(_numbers(array))
    except Exception as error:  # foreign bytes: reading them may raise nearly anything
        raise ValueError(f"array {name!r} cannot be read: {error}") from error


def _numbers(array: Array) -> NDArray[Any]:
    """The array itself, a writable copy. ``Array.numpy`` reads the header anew each time, for most of its time."""
    if array.stype != SType.NUMPY:
        raise ValueError(f"its type is {array.stype!r}, expected {SType.NUMPY!r}")
    start = _header_bytes(array.data)
    shape, by_column, dtype = _header(array.data[:start])
    numbers = np.frombuffer(array.data, dtype, math.prod(shape), start)
    return numbers.reshape(shape, order="F" if by_column else "C").copy()


@lru_cache(maxsize=1024)
def _header(raw: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is column-major, and dtype. Headers are the same in every round."""
    stream = BytesIO(raw)
    if (version := np.lib.format.read_magic(stream)) != (1, 0):
        raise ValueError(f"its format is {version}, expected NumPy's 1.0")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, by_column, dtype


def encode_plan(
    spec: RoundSpec, clients: Sequence[int], weights: ArrayRecord, factors: ArrayRecord, sketches: ArrayRecord
) -> RecordDict:
    """The content of one host's message. The records are shared by all messages of a round, never copied."""
    plan = ConfigRecord({"clients": list(clients), "spec": json.dumps(vars(spec), default=vars)})
    return RecordDict({"plan": plan, "weights": weights, "factors": factors, "sketches": sketches})


def decode_plan(content: RecordDict) -> RoundPlan:
    """The inverse of `encode_plan`, on the host."""
    plan = content.config_records["plan"]
    raw = json.loads(str(plan["spec"]))
    betas = tuple(raw["local"].pop("betas"))
    typed = {
        "method": Method(**raw.pop("method")),
        "sketch": SketchSpec(**raw.pop("sketch")),
        "local": LocalSpec(**raw.pop("local"), betas=betas),
    }
    records = {f.name: from_record(content.array_records[f.name]) for f in fields(RoundPlan)[2:]}
    return RoundPlan(RoundSpec(**raw, **typed), list(plan["clients"]), **records)  # type: ignore[arg-type]
