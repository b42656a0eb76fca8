"""What nodes are asked, and answer, so that the columns of their tables get a common scale."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from torch import Tensor

from fedrac.aggregation import exact_words
from fedrac.data import standard
from fedrac.protocol.messages import from_record, to_record
from fedrac.protocol.node_values import line
from fedrac.protocol.replies import content_of

ACTION = "columns"  # of Flower's queries that ask for it
KIND = f"query.{ACTION}"


def question(workload: Mapping[str, Any], boxes: RecordDict) -> RecordDict:
    """Asks a node for its sums under masks; ``boxes`` are the shares that its client is to hold."""
    return RecordDict({ACTION: ConfigRecord({"workload": json.dumps(dict(workload))}), **boxes})


def workload_of(content: RecordDict) -> dict[str, Any]:
    """The workload whose columns are meant."""
    found: dict[str, Any] = json.loads(str(content.config_records[ACTION]["workload"]))
    return found


def answer(words: Tensor) -> RecordDict:
    """What a node says: its client's words, under masks."""
    return RecordDict({ACTION: to_record({"masked": words})})


def answers(
    messages: Iterable[Message], hosts: Mapping[int, Sequence[int]], features: int
) -> tuple[dict[int, Tensor], list[str]]:
    """Words by client, and why others have given none."""
    words: dict[int, Tensor] = {}
    reasons = {node: f"node {node}: no reply in time" for node in hosts}
    for message in messages:
        node = message.metadata.src_node_id
        if node not in reasons:
            continue
        try:
            found = from_record(content_of(message).array_records[ACTION])["masked"]
            if found.dtype != exact_words.DTYPE or tuple(found.shape) != (standard.length(features),):
                raise ValueError(f"its sums are {found.dtype} {tuple(found.shape)}")
        except (ValueError, KeyError, TypeError) as error:
            reasons[node] = line(f"node {node}: {error}")
            continue
        words[hosts[node][0]] = found
        del reasons[node]
    return words, list(reasons.values())
