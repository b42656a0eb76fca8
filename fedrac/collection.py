"""What becomes of a round's replies: matched with what was asked, checked, joined; or the round fails."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from flwr.app import Message
from torch import Tensor

from fedrac.messages import payload_bytes
from fedrac.replies import NOT_FINITE, Refusal, Reply, Shapes, decode_reply, join
from fedrac.round_report import CohortFailure, Divergence, RoundReport

log = logging.getLogger(__name__)


def collect(
    report: RoundReport,
    hosts: Mapping[int, Sequence[int]],
    messages: Iterable[Message],
    shapes: Shapes,
    dtype: torch.dtype,
) -> Reply:
    """Everything that is good in a round's replies, in order of client id.

    Args:
        report: of the round; gets the bytes that came and the refusals, which are logged.
        hosts: node ids with the clients that each was asked to train.
        messages: what came, in any order.
        shapes, dtype: of every trained factor, as `decode_reply` takes them.
    """
    awaited, good, refused = dict(hosts), [], []
    for message in messages:
        asked = awaited.pop(message.metadata.src_node_id, None)
        if asked is None:
            log.warning("round %d: node %s answered unasked", report.round, message.metadata.src_node_id)
            continue
        if message.has_content() and (factors := message.content.array_records.get("factors")) is not None:
            report.upload_bytes += payload_bytes(factors)
        reply, bad = decode_reply(message, report.round, asked, shapes, dtype)
        good.append(reply)
        refused += bad
    report.refused = refused + [Refusal(clients, "no reply in time") for clients in awaited.values()]
    for refusal in report.refused:
        log.warning("round %d: %s", report.round, refusal)
    return join(good)


def enforce(report: RoundReport, good: int, min_fraction: float) -> None:
    """A round counts if ``good`` of its clients are at least ``min_fraction`` of the cohort.

    Raises:
        CohortFailure: they are not; it says why.
        Divergence: they are not, because numbers are not finite.
    """
    asked = len(report.cohort)
    if good == 0 or good / asked < min_fraction:
        reasons = "; ".join(map(str, report.refused[:5]))
        diverged = bool(report.refused) and all(refusal.reason.endswith(NOT_FINITE) for refusal in report.refused)
        raise (Divergence if diverged else CohortFailure)(
            f"round {report.round}: {good} of {asked} clients answered well, cohort.min_fraction="
            f"{min_fraction} wants more. {reasons}. Mend the cause, or lower cohort.min_fraction"
        )


def enforce_finite(round_: int, values: Iterable[Tensor]) -> None:
    """Finite factors can be so large that their product is not.

    Raises:
        Divergence: one of ``values``, the state after the round, is not finite.
    """
    if not all(bool(np.isfinite(value.numpy()).all()) for value in values):
        raise Divergence(f"round {round_}: the update is too large to be finite: lower local.lr")
