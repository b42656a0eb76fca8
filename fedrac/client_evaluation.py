"""The global model, tested on the clients' own data: questions, answers, and their mean."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedrac.messages import from_record
from fedrac.replies import content_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What one host is asked to test: the merged weights, on the data of these clients."""

    workload: Mapping[str, Any]
    clients: Sequence[int]
    weights: Mapping[str, Tensor]


def encode_evaluation(workload: Mapping[str, Any], clients: Sequence[int], weights: ArrayRecord) -> RecordDict:
    """The content of one host's message."""
    asked = ConfigRecord({"clients": list(clients), "workload": json.dumps(dict(workload))})
    return RecordDict({"evaluation": asked, "weights": weights})


def decode_evaluation(content: RecordDict) -> Evaluation:
    """The inverse of `encode_evaluation`, on the host."""
    asked = content.config_records["evaluation"]
    weights = from_record(content.array_records["weights"])
    return Evaluation(json.loads(str(asked["workload"])), list(asked["clients"]), weights)  # type: ignore[arg-type]


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
