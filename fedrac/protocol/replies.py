"""What hosts answer, and what becomes of it.

Nothing that comes in is trusted: a reply is either what was asked for, or refused with a reason that names the client
and the field.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedrac.protocol import own_state
from fedrac.protocol.coding import UploadCoding
from fedrac.protocol.messages import Shapes, from_record, pack, to_record, unpack
from fedrac.protocol.node_values import (
    LARGEST,
    MOST_CLIENTS,
    MOST_EXAMPLES,
    MOST_OFFERS,
    NOT_FINITE,
    integers,
    line,
    listed,
    numbers,
    unusable,
)
from fedrac.protocol.ranked import RankedCoding
from fedrac.protocol.records import find, record_of
from fedrac.protocol.sparse import SparseCoding

Coding = UploadCoding | RankedCoding | SparseCoding

_LACK = "cannot_rebuild"
_CANNOT_REBUILD = {
    "missing": "it no longer has the state that they follow from",
    "differs": "those that it made have another digest",
}


@dataclass(frozen=True)
class Reply:
    """What the clients of one host found.

    Attributes:
        clients: ids, (k,).
        examples: how many examples each has, (k,).
        losses: mean training losses, (k,).
        factors: by `Block.key`, (k, ...), what is sent.
        own: by client and `Block.key`, what stays with it.
    """

    clients: Sequence[int]
    examples: Sequence[int]
    losses: Sequence[float]
    factors: Mapping[str, Tensor]
    own: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Clients whose contribution does not count, and why; the reason names the field.

    Attributes:
        clients: ids.
        reason: one printable line, whatever a node wrote into it.
        diverged: they sent numbers that are not finite, as they do where steps are too large.
    """

    clients: Sequence[int]
    reason: str
    diverged: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", line(self.reason))

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.clients[:5])) + (", ..." if len(self.clients) > 5 else "")
        return f"client{'s' if len(self.clients) > 1 else ''} {ids}: {self.reason}"


def encode_reply(
    round_: int, reply: Reply, failed: Mapping[int, str], kept: bool = False, coding: Coding | None = None
) -> RecordDict:
    """The content of a host's answer.

    Args:
        round_: which it was asked for.
        reply: what the clients found.
        failed: clients that raised, and what.
        kept: whether the host keeps the state that it started from.
        coding: of the factors; None: they are sent whole.
    """
    meta: dict[str, Any] = {"round": round_, "clients": list(reply.clients), "kept": kept}
    if failed:
        meta |= {"failed": list(failed), "reasons": list(failed.values())}
    metrics: dict[str, Any] = {}
    factors: dict[str, Tensor] = {}
    if reply.clients:
        metrics = {"examples": list(reply.examples), "losses": list(reply.losses)}
        packed = pack(reply.factors, 1) if coding is None else coding.encode(reply.clients, reply.factors)
        factors = {"factors": packed}
    return RecordDict({"reply": ConfigRecord(meta), "metrics": MetricRecord(metrics), "factors": to_record(factors)})


def decode_reply(
    message: Message,
    round_: int,
    asked: Sequence[int],
    shapes: Shapes,
    dtype: torch.dtype,
    announced: Mapping[int, int] | None = None,
    coding: Coding | None = None,
    own: Shapes | None = None,
) -> tuple[Reply, list[Refusal]]:
    """Checks a host's answer against what it was asked for.

    Args:
        message: as it came in.
        round_: the round that was asked for.
        asked: the clients that this host was to train.
        shapes: of every trained factor, by `Block.key`, without cohort axis.
        dtype: of the factors.
        announced: how many examples each client has, as its host said before.
        coding: of the factors; None: they come whole.
        own: shapes of what stays with a client; a host that simulates clients sends it along.

    Returns:
        What is good of it, and refusals that name client and field. A fault of the whole message refuses all of its
        clients; a client whose own numbers cannot count is refused alone.
    """
    try:
        reply, failed = _parse(content_of(message), round_, shapes, dtype, coding)
        _check_clients(reply, failed, asked)
        if own and (sent := find(message.content, own_state.NAME, ArrayRecord)) is not None:
            kept = own_state.decode(sent, own, reply.clients)
            reply = replace(reply, own=kept)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        missing = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        return empty_reply(shapes, dtype), [Refusal(list(asked), missing)]
    refusals = [Refusal([client], f"raised {reason}", reason.endswith(NOT_FINITE)) for client, reason in failed.items()]
    bad = _bad(reply, announced or {})
    refusals += [Refusal([reply.clients[i]], reason, diverged) for i, (reason, diverged) in sorted(bad.items())]
    return _keep(reply, [i for i in range(len(reply.clients)) if i not in bad]), refusals


def content_of(message: Message) -> RecordDict:
    """The content of an answer; raises ValueError with the reason if it is an error."""
    if message.has_error():
        raise ValueError(f"raised {message.error.reason or 'an error without a reason'}")
    if (error := find(message.content, "error", ConfigRecord)) is not None:
        raise ValueError(f"raised {error['reason']!s}")
    if (reason := lack_of(message)) is not None:
        raise ValueError(f"cannot make the server's weights: {_CANNOT_REBUILD.get(reason, reason)}")
    return message.content


def encode_lack(reason: str, offers: Sequence[str] = ()) -> RecordDict:
    """The answer of a host that cannot make the state that the server wants; see `CannotRebuild`."""
    return RecordDict({_LACK: ConfigRecord({"reason": reason, "offers": list(offers)})})


def lack_of(message: Message) -> str | None:
    """Why a host needs more than it was sent; None if it does not ask for it."""
    if message.has_error() or (record := find(message.content, _LACK, ConfigRecord)) is None:
        return None
    return line(record.get("reason", ""))


def offers_of(message: Message) -> tuple[str, ...]:
    """Digests of the states that a host has which needs more; none if its answer makes no sense."""
    found = record_of(message.content, _LACK, ConfigRecord).get("offers", [])
    return tuple(line(offer, 64) for offer in found[:MOST_OFFERS]) if isinstance(found, list) else ()


def is_late(message: Message, round_: int) -> bool:
    """Whether it answers for an earlier round than ``round_``."""
    told = meta_of(message).get("round")
    return type(told) is int and 0 <= told < round_


def keeps(message: Message) -> bool:
    """Whether a host says that it keeps the state that it was sent."""
    return meta_of(message).get("kept") is True


def meta_of(message: Message) -> Mapping[str, Any]:
    """What an answer says beside its numbers; nothing if it is none."""
    return {} if message.has_error() else find(message.content, "reply", ConfigRecord) or {}


def empty_reply(shapes: Shapes, dtype: torch.dtype) -> Reply:
    """A reply of no client."""
    return Reply([], [], [], {key: torch.empty(0, *shape, dtype=dtype) for key, shape in shapes.items()})


def join(replies: Sequence[Reply]) -> Reply:
    """All clients of several replies, in order of client id: the order in which they came cannot matter."""
    if not replies:
        return Reply([], [], [], {})
    clients = [c for r in replies for c in r.clients]
    order = sorted(range(len(clients)), key=clients.__getitem__)
    return _keep(replies[0] if len(replies) == 1 else _together(clients, replies), order)


def _together(clients: Sequence[int], replies: Sequence[Reply]) -> Reply:
    return Reply(
        clients,
        [n for r in replies for n in r.examples],
        [x for r in replies for x in r.losses],
        {key: torch.cat([r.factors[key] for r in replies]) for key in replies[0].factors},
        {client: own for r in replies for client, own in r.own.items()},
    )


def _parse(
    content: RecordDict, round_: int, shapes: Shapes, dtype: torch.dtype, coding: Coding | None
) -> tuple[Reply, dict[int, str]]:
    meta, metrics = record_of(content, "reply", ConfigRecord), record_of(content, "metrics", MetricRecord)
    if type(meta["round"]) is not int or meta["round"] != round_:
        raise ValueError(f"field round is {meta['round']!r}, expected {round_}")
    clients = integers("clients", meta["clients"], most=MOST_CLIENTS)
    ids, reasons = integers("failed", meta.get("failed", [])), listed("reasons", meta.get("reasons", []))
    if len(set(ids)) != len(reasons) or len(ids) != len(reasons):
        raise ValueError(f"field failed is {ids}, field reasons has {len(reasons)} entries; expected one a client")
    failed = dict(zip(ids, map(line, reasons), strict=True))
    examples = integers("examples", metrics["examples"], 1, MOST_EXAMPLES) if clients else []
    losses = numbers("losses", metrics["losses"]).tolist() if clients else []
    if any(len(column) != len(clients) for column in (examples, losses)):
        raise ValueError(f"{len(clients)} clients, but {len(examples)} examples and {len(losses)} losses")
    if not clients:
        return empty_reply(shapes, dtype), failed
    record = record_of(content, "factors", ArrayRecord)
    if set(record) != {"factors"}:
        raise ValueError(f"field factors has names {sorted(record)}, expected ['factors']")
    return Reply(clients, examples, losses, _factors(record, clients, shapes, dtype, coding)), failed


def _factors(
    record: ArrayRecord, clients: Sequence[int], shapes: Shapes, dtype: torch.dtype, coding: Coding | None
) -> dict[str, Tensor]:
    """By `Block.key`, (k, ...) in ``dtype``, however they were sent."""
    packed, whole = from_record(record)["factors"], (len(clients), sum(map(math.prod, shapes.values())))
    size, sent = (whole, dtype) if coding is None else coding.form(clients, shapes, dtype)
    if tuple(packed.shape) != size or packed.dtype != sent:
        raise ValueError(f"field factors is {packed.dtype} {tuple(packed.shape)}, expected {sent} {size}")
    return unpack(packed, shapes) if coding is None else coding.decode(clients, packed, shapes, dtype)


def _check_clients(reply: Reply, failed: Mapping[int, str], asked: Sequence[int]) -> None:
    answered = sorted([*reply.clients, *failed])
    if answered != sorted(asked):
        raise ValueError(f"field clients is {answered}, expected {sorted(asked)}")


def _bad(reply: Reply, announced: Mapping[int, int]) -> dict[int, tuple[str, bool]]:
    """Place of every client with a number that cannot count: why, and whether it is because it is not finite.

    A product of two factors, or a factor times a sketch, must be finite in the master dtype: so what is near the root
    of its largest number is no factor of a model. The number of examples, a weight of the mean perhaps, is the one that
    the host had announced.
    """
    due = [announced.get(client, count) for client, count in zip(reply.clients, reply.examples, strict=True)]
    bad = {
        place: (f"field examples is {count}, but the host had announced {told}", False)
        for place, (count, told) in (enumerate(zip(reply.examples, due, strict=True)) if due != reply.examples else ())
        if count != told
    }
    found = unusable("losses", np.array(reply.losses, np.float64), LARGEST, "sum")
    for key, value in reply.factors.items():
        if not value.is_floating_point():  # under masks: all integers are as good
            continue
        found = unusable(key, value.numpy(), 1e-3 * math.sqrt(torch.finfo(value.dtype).max)) | found
    return {place: (reason, True) for place, reason in found.items()} | bad


def _keep(reply: Reply, places: Sequence[int]) -> Reply:
    """The clients at these places, in their order."""
    if list(places) == list(range(len(reply.clients))):
        return reply  # nothing is copied if nothing changes, as nearly always
    rows = torch.tensor(list(places), dtype=torch.int64)
    return Reply(
        [reply.clients[i] for i in places],
        [reply.examples[i] for i in places],
        [reply.losses[i] for i in places],
        {name: value[rows] for name, value in reply.factors.items()},
        {client: reply.own[client] for client in (reply.clients[i] for i in places) if client in reply.own},
    )
