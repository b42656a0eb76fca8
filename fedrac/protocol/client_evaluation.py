"""The global model, tested on the clients' own data: what hosts answer, its mean, and how far clients lie apart."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedrac.algorithm.streams import Index
from fedrac.data.metrics import is_lower_better
from fedrac.protocol.node_values import LARGEST, MOST_EXAMPLES, line, numbers, unusable
from fedrac.protocol.replies import content_of

Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

_MOST = 16  # metrics of a host
_LEAST = 0.5  # examples of a client that has any: one, but for rounding
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def encode_metrics(columns: Mapping[str, Sequence[float]], kept: bool) -> RecordDict:
    """The content of a host's answer: for every metric one sum a client, and whether it keeps the state it tested."""
    metrics = MetricRecord({name: list(values) for name, values in columns.items()})
    return RecordDict({"metrics": metrics, "reply": ConfigRecord({"kept": kept})})


@dataclass(frozen=True, eq=False)
class ClientMetrics:
    """What the global model is worth to each client that tested it, in order of client id.

    Attributes:
        round: after which it was tested.
        clients: ids, (k,) int64, ascending; each has at least one example.
        examples: how many each tested on, (k,) float64.
        metrics: by name, each client's mean over its examples, (k,) float64.
        means: of every metric, over all examples of all clients together.
    """

    round: int
    clients: Index
    examples: Floats
    metrics: Mapping[str, Floats]
    means: Mapping[str, float]

    def record(self) -> MetricRecord:
        """The means, named ``clients/...``, as Flower is told them."""
        return MetricRecord({f"clients/{name}": mean for name, mean in self.means.items()})

    def spread(self) -> dict[str, float]:
        """How far clients lie apart, as `spread` has it, named ``clients/mean_loss`` and so on."""
        found = {name: spread(name, values) for name, values in self.metrics.items()}
        return {f"clients/{part}_{name}": value for name, parts in found.items() for part, value in parts.items()}


def spread(metric: str, values: Floats) -> dict[str, float]:
    """Of a metric of the clients, (k,): ``mean``, ``worst10`` and ``sd``.

    They are the mean over clients, which all count alike; the mean over the tenth of the clients (at least one) for
    which the model is worst; and the standard deviation over clients.
    """
    ordered = np.sort(values)[::-1] if is_lower_better(metric) else np.sort(values)
    worst = ordered[: max(1, len(values) // 10)]
    return {"mean": float(values.mean()), "worst10": float(worst.mean()), "sd": float(values.std())}


def collect_metrics(
    round_: int, hosts: Mapping[int, Sequence[int]], replies: Iterable[Message]
) -> ClientMetrics | None:
    """What the clients of the hosts that answered well found; None: nobody did.

    The metrics are those that most hosts give; a host that leaves one of them out has not answered well. How many
    examples a client has tested on is what its host says: one that lies can move the means as far as it likes. An
    answer that is an error, of no example or not finite is left out, with a line in the log.

    Args:
        round_: after which the clients tested.
        hosts: node ids with the clients that each was asked to test on; of each the first answer counts.
        replies: what came, in any order.
    """
    answers: dict[int, dict[str, Floats]] = {}
    for message in replies:
        node = message.metadata.src_node_id
        try:
            if node not in hosts or node in answers:
                raise ValueError("answered twice" if node in answers else "answered unasked")
            answers[node] = _columns(message, len(hosts[node]))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            log.warning("round %d: node %s: %s", round_, node, line(error))
    given = Counter(name for columns in answers.values() for name in columns)
    names = sorted(name for name, count in given.items() if 2 * count > len(answers))
    for node in [node for node, columns in answers.items() if not set(names) <= set(columns)]:
        log.warning("round %d: node %s: its metrics are not those of the others", round_, node)
        del answers[node]
    return _joined(round_, hosts, answers, names) if answers else None


def _joined(
    round_: int, hosts: Mapping[int, Sequence[int]], answers: Mapping[int, Mapping[str, Floats]], names: Sequence[str]
) -> ClientMetrics:
    clients = np.array([client for node in answers for client in hosts[node]], np.int64)
    sums = {name: np.concatenate([columns[name] for columns in answers.values()]) for name in names}
    examples = sums.pop("examples")
    tested = np.flatnonzero(examples)
    order = tested[np.argsort(clients[tested])]
    total = math.fsum(examples)  # exact, so that neither order nor hosts matter
    return ClientMetrics(
        round_,
        clients[order],
        examples[order],
        {name: column[order] / examples[order] for name, column in sums.items()},
        {name: math.fsum(column) / total for name, column in sums.items()},
    )


def _columns(message: Message, clients: int) -> dict[str, Floats]:
    """Of the clients of one host, every metric's sum over the examples of each, and ``examples``.

    Raises:
        ValueError, KeyError, TypeError, OverflowError: it is no answer that counts.
    """
    columns = content_of(message).metric_records["metrics"]
    check_names(list(columns))
    values = {name: numbers(name, column) for name, column in columns.items()}
    for name, column in values.items():
        if len(column) != clients:
            raise ValueError(f"field {name} has {len(column)} numbers, expected one a client, {clients}")
        for reason in unusable(name, column, MOST_EXAMPLES if name == "examples" else LARGEST, "sum").values():
            raise ValueError(reason)
    examples = values["examples"]
    if ((examples != 0) & (examples < _LEAST)).any() or examples.sum() < 1:
        raise ValueError("metrics of no example")
    return values


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError if metrics have other names than metrics have, or are too many."""
    if len(names) > _MOST or not all(map(_NAME.fullmatch, names)):
        raise ValueError(f"metrics {', '.join(names)}: at most {_MOST}, in lower case")
