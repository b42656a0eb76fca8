"""The global model, tested on clients' data under masks: the server sees the sums over all of them, and no summand."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedrac.aggregation import exact_words
from fedrac.loading.told import told
from fedrac.protocol.client_evaluation import check_names
from fedrac.protocol.messages import from_record, to_record
from fedrac.protocol.node_values import line
from fedrac.protocol.replies import content_of
from fedrac.protocol.round_report import CohortFailure
from fedrac.protocol.secure_messages import ids, of_kind
from fedrac.protocol.secure_server import Ask, SecureRound

log = logging.getLogger(__name__)

NAME = "tested"  # of a record of an answer

# --- a node ---------------------------------------------------------------------------------------------------------


def encoded(columns: Mapping[str, Sequence[float]], clients: Sequence[int]) -> dict[int, Tensor]:
    """By client, its sums of all metrics in the order of their names, (length,) words.

    Args:
        columns: by name, one sum a client.
        clients: ids.

    Raises:
        ValueError: a sum is not finite, or too large.
    """
    by_client = {}
    for client, sums in zip(clients, zip(*(columns[name] for name in sorted(columns)), strict=True), strict=True):
        try:
            by_client[client] = exact_words.encode(sums)
        except ValueError as error:
            raise told(ValueError("the sum of a metric is not finite, or too large")) from error
    return by_client


def encode(columns: Mapping[str, Sequence[float]], masked: Mapping[int, Tensor], kept: bool) -> RecordDict:
    """A host's answer: the names of the metrics, its clients' words under masks, whether it keeps the state."""
    about = ConfigRecord({"names": sorted(columns), "clients": list(masked)})
    arrays = to_record({str(client): word for client, word in masked.items()})
    return RecordDict({NAME: about, "masked": arrays, "reply": ConfigRecord({"kept": kept})})


# --- the server -----------------------------------------------------------------------------------------------------


def agree(secure: SecureRound, workload: Mapping[str, Any], seed: int, ask: Ask) -> bool:
    """Whether those who are to test have agreed on masks; else the log says why not.

    Args:
        secure: of those who are to test.
        workload, seed, ask: as for `SecureRound.agree`.
    """
    try:
        secure.agree(workload, seed, ask)
    except CohortFailure as error:
        log.warning("clients do not test: %s", error)
        return False
    for node, refusal in secure.refused:
        log.warning("node %s does not test: %s", node, refusal)
    return True


def found(secure: SecureRound, round_: int, replies: Iterable[Message], ask: Ask) -> MetricRecord | None:
    """The means over all examples; None: nobody knows them, and the log says why.

    Args:
        secure: those who were asked, and have agreed on masks.
        round_: after which they tested.
        replies: what came, in any order.
        ask: sends messages and waits for the answers.
    """
    names, words = collect(round_, secure.hosts, replies)
    if not words:
        return None
    try:
        return means(names, secure.unmask(words, ask))
    except (CohortFailure, ValueError) as error:
        log.warning("round %d: what clients found in their tests stays unknown: %s", round_, error)
        return None


def collect(
    round_: int, hosts: Mapping[int, Sequence[int]], replies: Iterable[Message]
) -> tuple[list[str], dict[int, Tensor]]:
    """The names that most hosts give, and by client the words of those that give them; others are logged.

    Args:
        round_: after which the clients tested.
        hosts: node ids with the clients that each was asked to test on; of each the first answer counts.
        replies: what came, in any order.
    """
    answers: dict[int, tuple[list[str], dict[int, Tensor]]] = {}
    for message in replies:
        node = message.metadata.src_node_id
        try:
            if node not in hosts or node in answers:
                raise ValueError("answered twice" if node in answers else "answered unasked")
            answers[node] = _decoded(message, hosts[node])
        except (ValueError, KeyError, TypeError) as error:
            log.warning("round %d: node %s: %s", round_, node, line(error))
    if not answers:
        return [], {}
    (names, _), *_ = Counter(tuple(given) for given, _ in answers.values()).most_common(1)
    words: dict[int, Tensor] = {}
    for node, (given, masked) in answers.items():
        if tuple(given) == names:
            words |= masked
        else:
            log.warning("round %d: node %s: its metrics are not those of the others", round_, node)
    return list(names), words


def _decoded(message: Message, clients: Sequence[int]) -> tuple[list[str], dict[int, Tensor]]:
    content = content_of(message)
    about, arrays = content.config_records[NAME], from_record(content.array_records["masked"])
    names = of_kind(about, "names", str)
    check_names(names)
    if names != sorted(set(names)) or "examples" not in names:
        raise ValueError(f"field names has {line(', '.join(names))}, expected each once, and examples")
    if sorted(ids(about, "clients")) != sorted(clients) or set(arrays) != set(map(str, clients)):
        raise ValueError("its results are of other clients than it was asked for")
    shape = (exact_words.length(len(names)),)
    for word in arrays.values():
        if word.dtype != exact_words.DTYPE or tuple(word.shape) != shape:
            raise ValueError(f"its sums are {word.dtype} {tuple(word.shape)}, expected {shape} words")
    return names, {client: arrays[str(client)] for client in clients}


def means(names: Sequence[str], total: Tensor) -> MetricRecord:
    """Of every metric over all examples together, named ``clients/...``.

    Args:
        names: of the metrics, in the order of the words.
        total: the sum of all clients' words.

    Raises:
        ValueError: it is that of no example.
    """
    sums = dict(zip(names, exact_words.decode(total), strict=True))
    if (examples := sums.pop("examples")) < 1:
        raise ValueError("metrics of no example")
    return MetricRecord({f"clients/{name}": float(value / examples) for name, value in sums.items()})
