"""What becomes of a round's replies: matched with what was asked, checked, joined; or the round fails."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from torch import Tensor

from fedrac.algorithm.server import ServerSpec
from fedrac.protocol.messages import Shapes, payload_bytes
from fedrac.protocol.records import find
from fedrac.protocol.replies import Coding, Refusal, Reply, decode_reply, is_late, join, keeps
from fedrac.protocol.round_report import CohortFailure, Divergence, RoundReport

log = logging.getLogger(__name__)

_MOST = 20  # refusals of a round that keep their reasons


@dataclass(frozen=True)
class RoundReplies:
    """What a round brought.

    Attributes:
        reply: everything that is good, in order of client id.
        kept: of every node that answered, whether it keeps the state that it was sent.
        failed: nodes of which nothing was good.
    """

    reply: Reply
    kept: Mapping[int, bool]
    failed: Sequence[int]


def collect(
    report: RoundReport,
    hosts: Mapping[int, Sequence[int]],
    messages: Iterable[Message],
    shapes: Shapes,
    dtype: torch.dtype,
    announced: Mapping[int, int] | None = None,
    before: Sequence[tuple[int, Refusal]] = (),
    coding: Coding | None = None,
    own: Shapes | None = None,
) -> RoundReplies:
    """Matches a round's replies with what was asked.

    Of each host the first answer to this round counts; what it says to an earlier one is no answer.

    Args:
        report: of the round; gets the bytes that came and the refusals, which are logged.
        hosts: node ids with the clients that each was asked to train.
        messages: what came, in any order.
        shapes, dtype, announced, coding, own: as `decode_reply` takes them.
        before: refusals of clients, with their nodes, that were not asked for that reason.
    """
    awaited, good, refused = dict(hosts), {}, list(before)
    kept: dict[int, bool] = {}
    silent = dict.fromkeys(hosts, "no reply in time")
    for message in messages:
        node = message.metadata.src_node_id
        if node not in awaited:
            log.warning("round %d: node %s answered %s", report.round, node, "twice" if node in hosts else "unasked")
        elif is_late(message, report.round):
            silent[node] = f"no reply in time, but one of round {message.content['reply']['round']!r}"
        else:
            report.upload_bytes += _upload(message)
            reply, bad = decode_reply(message, report.round, awaited.pop(node), shapes, dtype, announced, coding, own)
            good[node], kept[node] = reply, keeps(message)
            refused += [(node, refusal) for refusal in bad]
    refused += [(node, Refusal(clients, silent[node])) for node, clients in awaited.items()]
    for node, refusal in refused[:_MOST]:
        log.warning("round %d: node %s: %s", report.round, node, refusal)
    report.refused = _bounded([refusal for _, refusal in refused])
    for refusal in report.refused[_MOST:]:
        log.warning("round %d: %s", report.round, refusal)
    failed = [node for node in hosts if node not in good or not good[node].clients]
    return RoundReplies(join([reply for reply in good.values() if reply.clients]), kept, failed)


def _bounded(refusals: Sequence[Refusal]) -> list[Refusal]:
    """With the reasons of the first ones only: what a round leaves in the record does not grow with what nodes say."""
    rest = refusals[_MOST:]
    if not rest:
        return list(refusals)
    clients = sorted(client for refusal in rest for client in refusal.clients)
    reason = f"{len(rest)} more refusals, whose reasons are left out"
    return [*refusals[:_MOST], Refusal(clients, reason, all(refusal.diverged for refusal in rest))]


def _upload(message: Message) -> int:
    factors = None if message.has_error() else find(message.content, "factors", ArrayRecord)
    return 0 if factors is None else payload_bytes(factors)


def enforce(report: RoundReport, good: int, server: ServerSpec) -> None:
    """A round counts if ``good`` clients are at least ``min_fraction`` of a whole cohort.

    Raises:
        CohortFailure: they are not; it says why.
        Divergence: they are not, because numbers are not finite.
    """
    size = server.cohort_size
    if good < server.least_clients:
        away = [f"{size - len(report.cohort)} clients were away"] if len(report.cohort) < size else []
        late = [f"{len(report.late)} were later than system.deadline"] if report.late else []
        reasons = "; ".join([*map(str, report.refused[:5]), *away, *late])
        diverged = bool(report.refused) and all(refusal.diverged for refusal in report.refused)
        raise (Divergence if diverged else CohortFailure)(
            f"round {report.round}: {good} of {size} clients answered well, cohort.min_fraction="
            f"{server.min_fraction} needs more. {reasons}. Remove the cause, or lower cohort.min_fraction"
        )


def enforce_finite(round_: int, values: Iterable[Tensor]) -> None:
    """Finite factors can be so large that their product is not.

    Args:
        round_: of which this is the result.
        values: the state after it, tensors of any shape (m, ...), on the CPU.

    Raises:
        Divergence: one of ``values`` is not finite.
    """
    if not all(bool(np.isfinite(value.numpy()).all()) for value in values):
        raise Divergence(f"round {round_}: the update is too large to be finite: lower local.lr")
