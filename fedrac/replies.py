"""What hosts answer, and what becomes of it.

Nothing that comes in is trusted: a reply is either what was asked for, or refused with a reason that names the client
and the field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedrac.messages import from_record, to_record

Shapes = Mapping[str, tuple[int, ...]]
NOT_FINITE = "is not finite"  # how the reason of such a refusal ends


@dataclass(frozen=True)
class Reply:
    """What the clients of one host found.

    Attributes:
        clients: ids, (k,).
        examples: how many examples each has, (k,).
        losses: mean training losses, (k,).
        factors: by `Block.key`, (k, ...).
    """

    clients: Sequence[int]
    examples: Sequence[int]
    losses: Sequence[float]
    factors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Refusal:
    """Clients whose contribution does not count, and why; the reason names the field."""

    clients: Sequence[int]
    reason: str

    def __str__(self) -> str:
        ids = ", ".join(map(str, self.clients[:5])) + (", ..." if len(self.clients) > 5 else "")
        return f"client{'s' if len(self.clients) > 1 else ''} {ids}: {self.reason}"


def encode_reply(round_: int, reply: Reply, failed: Mapping[int, str]) -> RecordDict:
    """The content of a host's answer; ``failed`` maps clients that raised to what they raised."""
    meta: dict[str, Any] = {"round": round_, "clients": list(reply.clients)}
    if failed:
        meta |= {"failed": list(failed), "reasons": list(failed.values())}
    metrics: dict[str, Any] = {}
    if reply.clients:
        metrics = {"examples": list(reply.examples), "losses": list(reply.losses)}
    return RecordDict(
        {"reply": ConfigRecord(meta), "metrics": MetricRecord(metrics), "factors": to_record(reply.factors)}
    )


def decode_reply(
    message: Message, round_: int, asked: Sequence[int], shapes: Shapes, dtype: torch.dtype
) -> tuple[Reply, list[Refusal]]:
    """Checks a host's answer against what it was asked for.

    Args:
        message: as it came in.
        round_: the round that was asked for.
        asked: the clients that this host was to train.
        shapes: of every trained factor, by `Block.key`, without cohort axis.
        dtype: of the factors.

    Returns:
        What is good of it, and refusals that name client and field. A fault of the whole message refuses all of its
        clients; a client whose own numbers are not finite is refused alone.
    """
    try:
        reply, failed = _parse(content_of(message), round_, shapes, dtype)
        _check_clients(reply, failed, asked)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        missing = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        return empty_reply(shapes, dtype), [Refusal(list(asked), missing)]
    refusals = [Refusal([client], f"raised {reason}") for client, reason in failed.items()]
    bad = _not_finite(reply)
    refusals += [Refusal([reply.clients[i]], f"field {field} {NOT_FINITE}") for i, field in bad.items()]
    return _keep(reply, [i for i in range(len(reply.clients)) if i not in bad]), refusals


def content_of(message: Message) -> RecordDict:
    """The content of an answer; raises ValueError with the reason if it is an error."""
    if message.has_error():
        raise ValueError(f"raised {message.error.reason or 'an error without a reason'}")
    if "error" in message.content.config_records:
        raise ValueError(f"raised {message.content.config_records['error']['reason']!s}")
    return message.content


def empty_reply(shapes: Shapes, dtype: torch.dtype) -> Reply:
    """A reply of no client."""
    return Reply([], [], [], {key: torch.empty(0, *shape, dtype=dtype) for key, shape in shapes.items()})


def join(replies: Sequence[Reply]) -> Reply:
    """All clients of several replies, in order of client id: the order in which they came cannot matter."""
    if not replies:
        return Reply([], [], [], {})
    clients = [c for r in replies for c in r.clients]
    order = sorted(range(len(clients)), key=clients.__getitem__)
    together = Reply(
        clients,
        [n for r in replies for n in r.examples],
        [x for r in replies for x in r.losses],
        {key: torch.cat([r.factors[key] for r in replies]) for key in replies[0].factors},
    )
    return _keep(together, order)


def _parse(content: RecordDict, round_: int, shapes: Shapes, dtype: torch.dtype) -> tuple[Reply, dict[int, str]]:
    meta, metrics = content.config_records["reply"], content.metric_records["metrics"]
    if type(meta["round"]) is not int or meta["round"] != round_:
        raise ValueError(f"field round is {meta['round']!r}, expected {round_}")
    clients = _integers("clients", meta["clients"])
    ids, reasons = _integers("failed", meta.get("failed", [])), _list("reasons", meta.get("reasons", []))
    if len(set(ids)) != len(reasons) or len(ids) != len(reasons):
        raise ValueError(f"field failed is {ids}, field reasons has {len(reasons)} entries; expected one a client")
    failed = dict(zip(ids, map(str, reasons), strict=True))
    examples = _integers("examples", metrics["examples"]) if clients else []
    losses = [float(x) for x in _list("losses", metrics["losses"])] if clients else []
    if any(len(column) != len(clients) for column in (examples, losses)):
        raise ValueError(f"{len(clients)} clients, but {len(examples)} examples and {len(losses)} losses")
    if any(count < 1 for count in examples):
        raise ValueError(f"field examples has the count {min(examples)}; a client has at least 1 example")
    if not clients:
        return empty_reply(shapes, dtype), failed
    record = content.array_records["factors"]
    if set(record) != set(shapes):
        raise ValueError(f"field factors has names {sorted(record)}, expected {sorted(shapes)}")
    factors = from_record(record)
    for name, value in factors.items():
        expected = (len(clients), *shapes[name])
        if tuple(value.shape) != expected or value.dtype != dtype:
            raise ValueError(f"field {name} is {value.dtype} {tuple(value.shape)}, expected {dtype} {expected}")
    return Reply(clients, examples, losses, factors), failed


def _list(field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"field {field} must be a list, got {value!r}")
    return value


def _integers(field: str, value: Any) -> list[int]:
    if not all(type(x) is int for x in _list(field, value)):
        raise TypeError(f"field {field} must be a list of integers")
    return list(value)


def _check_clients(reply: Reply, failed: Mapping[int, str], asked: Sequence[int]) -> None:
    answered = sorted([*reply.clients, *failed])
    if answered != sorted(asked):
        raise ValueError(f"field clients is {answered}, expected {sorted(asked)}")


def _not_finite(reply: Reply) -> dict[int, str]:
    """Place of every client with a number that is not finite, and the first such field."""
    bad: dict[int, str] = {}
    if not reply.clients:
        return bad
    columns = {"losses": torch.tensor(reply.losses, dtype=torch.float64), **reply.factors}
    for field, value in columns.items():
        finite = np.isfinite(value.numpy()).reshape(len(reply.clients), -1).all(1)  # torch's takes ten times as long
        for place in np.flatnonzero(~finite).tolist():
            bad.setdefault(place, field)
    return bad


def _keep(reply: Reply, places: Sequence[int]) -> Reply:
    rows = torch.tensor(list(places), dtype=torch.int64)
    return Reply(
        [reply.clients[i] for i in places],
        [reply.examples[i] for i in places],
        [reply.losses[i] for i in places],
        {name: value[rows] for name, value in reply.factors.items()},
    )
