"""What the server sends to hosts, as Flower records.

A host is a Flower node; it serves one client or many. One message a round goes to every host that serves a client of
the cohort.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray
from torch import Tensor

from fedrac.aggregation.secure_grid import SecureGrid
from fedrac.algorithm.method import Method
from fedrac.algorithm.rounding import BitsSpec
from fedrac.algorithm.sketch import SketchSpec
from fedrac.protocol import method_settings
from fedrac.protocol.records import Passed, find, record_of
from fedrac.protocol.state_log import PARTS, Step, Update
from fedrac.training.optimizer import LocalSpec

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class RoundSpec:
    """What all hosts of a round are told alike.

    Attributes:
        round: from 1.
        workload: data, partition and model, as `fedrac.flower.host.Host` reads them.
        blocks: name, rank and scale of every trained parameter.
        method: the four choices.
        sketch: law and seed of the random factors.
        digest: of this round's sketches; a host that rebuilds others must not train.
        local: how clients train; its ``lr`` is this round's.
        cohort: how many clients take part in the round, as the server says.
        grid: on which updates are sent, under masks; None: the server sees each of them.
        bits: in how many numbers are sent.
    """

    round: int
    workload: Mapping[str, Any]
    blocks: Sequence[Mapping[str, Any]]
    method: Method
    sketch: SketchSpec
    digest: str
    local: LocalSpec
    cohort: int
    grid: SecureGrid | None = None
    bits: BitsSpec = field(default_factory=BitsSpec)


@dataclass(frozen=True)
class RoundPlan:
    """What one host is told in one round.

    Attributes:
        spec: the same for every host.
        clients: the clients that this host trains or tests.
        ranks: by client, where they differ (`Method.ranks`); else empty.
        update: leads to the state that they start from.
        sketches: by `Block.sketch_key`, the random factors, if they are sent as matrices; else empty.
        start: the carried factors that the round starts from, where they are sent sparsely, (bytes,) uint8
            (`fedrac.protocol.sparse`); None: they are part of the state.
    """

    spec: RoundSpec
    clients: Sequence[int]
    update: Update
    sketches: Mapping[str, Tensor]
    ranks: Mapping[int, int] = field(default_factory=dict)
    start: Tensor | None = None


def to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as a Flower record, whose receiver may be in this process: nobody may change them any more."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = Passed(tensor)
    return record


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """The tensors of a record, in the shapes (any) and dtypes that its arrays have.

    They are copies; those of a message that has not left the process are the sender's, which nobody may change.

    Raises:
        ValueError: its bytes are not arrays.
    """
    return {name: a.tensor if isinstance(a, Passed) else _tensor(name, a) for name, a in record.items()}


def payload_bytes(record: ArrayRecord) -> int:
    """Bytes of the numbers in a record, headers left out. What a record says of its arrays' shapes is not believed."""
    return sum(a.tensor.nbytes if isinstance(a, Passed) else _payload(a.data) for a in record.values())


def _payload(data: bytes) -> int:
    return max(len(data) - _header_bytes(data), 0)


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


def pack(tensors: Mapping[str, Tensor], axes: int = 0) -> Tensor:
    """Tensors one after another in order of name, (..., N): one array makes a smaller message than many do.

    The first ``axes`` axes are those that all have in common.
    """
    return torch.cat([tensors[key].reshape(*tensors[key].shape[:axes], -1) for key in sorted(tensors)], -1)


def unpack(packed: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """The inverse of `pack`: views of ``packed`` (..., N) with the common axes before each of ``shapes``."""
    names = sorted(shapes)
    parts = torch.split(packed, [math.prod(shapes[name]) for name in names], -1)
    return {n: part.reshape(*packed.shape[:-1], *shapes[n]) for n, part in zip(names, parts, strict=True)}


def encode_update(update: Update) -> RecordDict:
    """The part of a host's message that brings it to the server's state."""
    steps = {"means": torch.cat([step.means for step in update.steps])} if update.steps else {}
    about: dict[str, Any] = {"round": update.round, "digest": update.digest, "base": update.base}
    about |= {"rounds": [step.round for step in update.steps], "etas": [step.eta for step in update.steps]}
    about |= {"sizes": [len(step.means) for step in update.steps], "path": list(update.path)}
    arrays = {"steps": steps, **update.tensors}
    return RecordDict({"update": ConfigRecord(about), **{name: to_record(part) for name, part in arrays.items()}})


def decode_update(content: RecordDict) -> Update:
    """The inverse of `encode_update`, on the host."""
    about: dict[str, Any] = dict(record_of(content, "update", ConfigRecord))
    arrays = {name: from_record(record_of(content, name, ArrayRecord)) for name in ("steps", *PARTS)}
    means = torch.split(arrays.pop("steps").get("means", torch.empty(0)), about["sizes"])
    return Update(
        round=about["round"],
        digest=about["digest"],
        base=about["base"],
        steps=tuple(Step(*told) for told in zip(about["rounds"], about["etas"], means, strict=True)),
        path=tuple(about["path"]),
        **arrays,
    )


def encode_plan(
    spec: RoundSpec,
    clients: Sequence[int],
    update: RecordDict,
    sketches: ArrayRecord,
    ranks: Mapping[int, int] | None = None,
) -> RecordDict:
    """The content of one host's message. The records are shared by the messages of a round, never copied."""
    told = {"ranks": [ranks[client] for client in clients]} if ranks else {}
    plan = ConfigRecord({"clients": list(clients), "spec": json.dumps(vars(spec), default=_values), **told})
    return RecordDict({"plan": plan, **update, "sketches": sketches})


def _values(of: Any) -> dict[str, Any]:
    return method_settings.written(of) if isinstance(of, Method) else vars(of)


def decode_plan(content: RecordDict) -> RoundPlan:
    """The inverse of `encode_plan`, on the host.

    Raises:
        Refused: the method may not be named here.
    """
    plan = record_of(content, "plan", ConfigRecord)
    raw = json.loads(str(plan["spec"]))
    betas = tuple(raw["local"].pop("betas"))
    typed: dict[str, Any] = {
        "method": method_settings.read(raw.pop("method")),
        "sketch": SketchSpec(**raw.pop("sketch")),
        "bits": BitsSpec(**raw.pop("bits")),
        "local": LocalSpec(**raw.pop("local"), betas=betas),
        "grid": SecureGrid(**grid) if (grid := raw.pop("grid")) else None,
    }
    sketches = from_record(record_of(content, "sketches", ArrayRecord))
    clients: list[int] = list(plan["clients"])  # type: ignore[arg-type]
    told: list[int] = list(plan.get("ranks", []))  # type: ignore[arg-type]
    ranks = dict(zip(clients, told, strict=True)) if told else {}
    sparse = find(content, "start", ArrayRecord)
    start = None if sparse is None else from_record(sparse)["factors"]
    return RoundPlan(RoundSpec(**raw, **typed), clients, decode_update(content), sketches, ranks, start)
