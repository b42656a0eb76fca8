"""The global model, tested on the clients' own data: what hosts answer, and its mean."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedrac.protocol.node_values import LARGEST, MOST_EXAMPLES, line, numbers, unusable
from fedrac.protocol.replies import content_of

log = logging.getLogger(__name__)

_MOST = 16  # metrics of a host
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def encode_metrics(columns: Mapping[str, Sequence[float]], kept: bool) -> RecordDict:
    """The content of a host's answer: for every metric one sum a client, and whether it keeps the state it tested."""
    metrics = MetricRecord({name: list(values) for name, values in columns.items()})
    return RecordDict({"metrics": metrics, "reply": ConfigRecord({"kept": kept})})


def mean_metrics(round_: int, hosts: Mapping[int, Sequence[int]], replies: Iterable[Message]) -> MetricRecord | None:
    """Mean of every metric over all examples of the clients that answered well, named ``clients/...``; None: nobody.

    The metrics are those that most hosts give; a host that leaves one of them out has not answered well. How many
    examples a host has tested on is what it says: one that lies can move the means as far as it likes. An answer that
    is an error, of no example or not finite is left out, with a line in the log.

    Args:
        round_: for the log.
        hosts: node ids with the clients that each was asked to test on; of each the first answer counts.
        replies: what came, in any order.
    """
    answers: dict[int, dict[str, float]] = {}
    for message in replies:
        node = message.metadata.src_node_id
        try:
            if node not in hosts or node in answers:
                raise ValueError("answered twice" if node in answers else "answered unasked")
            answers[node] = _sums(message, len(hosts[node]))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("round %d: node %s: %s", round_, node, line(error))
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


def _sums(message: Message, clients: int) -> dict[str, float]:
    """Over the clients of one host, every metric and ``examples``.

    Raises:
        ValueError, KeyError, TypeError, OverflowError: it is no answer that counts.
    """
    columns = content_of(message).metric_records["metrics"]
    if len(columns) > _MOST or not all(map(_NAME.fullmatch, columns)):
        raise ValueError(f"metrics {', '.join(columns)}: at most {_MOST}, in lower case")
    values = {name: numbers(name, column) for name, column in columns.items()}
    for name, column in values.items():
        if len(column) != clients:
            raise ValueError(f"field {name} has {len(column)} numbers, expected one a client, {clients}")
        for reason in unusable(name, column, MOST_EXAMPLES if name == "examples" else LARGEST, "sum").values():
            raise ValueError(reason)
    if (values["examples"] < 0).any() or values["examples"].sum() < 1:
        raise ValueError("metrics of no example")
    return {name: math.fsum(column) for name, column in values.items()}
