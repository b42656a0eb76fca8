"""The global model, tested on the clients' own data: what hosts answer, and its mean."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedrac.replies import content_of

log = logging.getLogger(__name__)


def encode_metrics(columns: Mapping[str, Sequence[float]], kept: bool) -> RecordDict:
    """The content of a host's answer: for every metric one sum a client, and whether it keeps the state it tested."""
    metrics = MetricRecord({name: list(values) for name, values in columns.items()})
    return RecordDict({"metrics": metrics, "reply": ConfigRecord({"kept": kept})})


def mean_metrics(round_: int, replies: Iterable[Message]) -> MetricRecord | None:
    """Mean of every metric over all examples of the clients that answered well, named ``clients/...``; None: nobody."""
    answers: list[dict[str, float]] = []
    for message in replies:
        try:
            columns = content_of(message).metric_records["metrics"]
            sums = {name: math.fsum(values) for name, values in columns.items()}  # type: ignore[arg-type]
            if not (sums["examples"] >= 1 and all(map(math.isfinite, sums.values()))):
                raise ValueError(f"metrics of no example, or not finite: {sums}")
            answers.append(sums)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("round %d: node %s: %s", round_, message.metadata.src_node_id, error)
    if not answers:
        return None
    examples = math.fsum(sums.pop("examples") for sums in answers)
    names = sorted(set.intersection(*map(set, answers)))
    return MetricRecord({f"clients/{n}": math.fsum(sums[n] for sums in answers) / examples for n in names})
