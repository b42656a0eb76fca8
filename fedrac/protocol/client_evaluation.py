"""The global model, tested on the clients' own data: what hosts answer, and its mean."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedrac.protocol.replies import content_of

log = logging.getLogger(__name__)


def encode_metrics(columns: Mapping[str, Sequence[float]], kept: bool) -> RecordDict:
    """The content of a host's answer: for every metric one sum a client, and whether it keeps the state it tested."""
    metrics = MetricRecord({name: list(values) for name, values in columns.items()})
    return RecordDict({"metrics": metrics, "reply": ConfigRecord({"kept": kept})})


def mean_metrics(round_: int, replies: Iterable[Message]) -> MetricRecord | None:
    """Mean of every metric over all examples of the clients that answered well, named ``clients/...``; None: nobody.

    The metrics are those that most hosts give; a host that leaves one of them out has not answered well. How many
    examples a host has tested on is what it says: one that lies can move the means as far as it likes. An answer that
    is an error, of no example or not finite is left out, with a line in the log.
    """
    answers: dict[int, dict[str, float]] = {}
    for message in replies:
        try:
            columns = content_of(message).metric_records["metrics"]
            sums = {name: math.fsum(values) for name, values in columns.items()}  # type: ignore[arg-type]
            if not (sums["examples"] >= 1 and all(map(math.isfinite, sums.values()))):
                raise ValueError(f"metrics of no example, or not finite: {sums}")
            answers[message.metadata.src_node_id] = sums
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("round %d: node %s: %s", round_, message.metadata.src_node_id, error)
    given = Counter(name for sums in answers.values() for name in sums)
    names = sorted(name for name, count in given.items() if 2 * count > len(answers))
    for node in [node for node, sums in answers.items() if not set(names) <= set(sums)]:
        log.warning("round %d: node %s: its metrics are not those of the others", round_, node)
        del answers[node]
    if not answers:
        return None
    totals = {name: math.fsum(sums[name] for sums in answers.values()) for name in names}
    examples = totals.pop("examples")
    return MetricRecord({f"clients/{name}": total / examples for name, total in totals.items()})
