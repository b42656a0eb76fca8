"""The messages by which clients agree on masks and take them away again; see `fedrac.protocol.secure_server`.

They are records of plain lists. A list of lists travels flat, with the lengths beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import ConfigRecord, RecordDict

from fedrac.protocol.node_values import MOST_CLIENTS, integers, listed

T = TypeVar("T")

NAME = "secure"  # of the record, and of the action of Flower's queries that ask for it
KIND = f"query.{NAME}"


def encode(**fields: Any) -> RecordDict:
    """A record of the protocol."""
    return RecordDict({NAME: ConfigRecord(fields)})


def flat(name: str, values: Mapping[int, Sequence[Any]]) -> dict[str, Any]:
    """Lists by client as the fields of a record."""
    counts = [len(part) for part in values.values()]
    return {f"{name}_of": list(values), f"{name}_counts": counts, name: [x for part in values.values() for x in part]}


def lists(record: Mapping[str, Any], name: str, kind: type[T]) -> dict[int, list[T]]:
    """The inverse of `flat`.

    Raises:
        KeyError: a field is missing.
        ValueError, TypeError: the fields do not go together.
    """
    owners, counts = ids(record, f"{name}_of"), integers(f"{name}_counts", record[f"{name}_counts"])
    values = of_kind(record, name, kind)
    if len(owners) != len(counts) or sum(counts) != len(values):
        raise ValueError(f"field {name} has {len(values)} entries of {len(owners)} clients, expected {sum(counts)}")
    found, place = {}, 0
    for owner, count in zip(owners, counts, strict=True):
        found[owner] = values[place : place + count]
        place += count
    return found


def ids(record: Mapping[str, Any], name: str) -> list[int]:
    """A list of client ids, each once.

    Raises:
        KeyError, ValueError, TypeError: it is none.
    """
    found = integers(name, record[name], most=MOST_CLIENTS)
    if len(set(found)) < len(found):
        raise ValueError(f"field {name} names a client twice")
    return found


def of_kind(record: Mapping[str, Any], name: str, kind: type[T]) -> list[T]:
    """A list whose entries are of one type.

    Raises:
        KeyError, TypeError: it is none.
    """
    found = listed(name, record[name])
    if not all(type(x) is kind for x in found):
        raise TypeError(f"field {name} must be a list of {kind.__name__}")
    return found


def one(record: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """A single value.

    Raises:
        KeyError, TypeError: it is none.
    """
    if type(value := record[name]) is not kind:
        raise TypeError(f"field {name} must be of type {kind.__name__}")
    return value
