"""Flower's records, without the work that they make where a message does not leave the process.

Flower's runtimes encode a message at the edge of a process; between a server and hosts in one process the same
tensors are passed.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from torch import Tensor

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


class Passed(Array):
    """A tensor in a message. Its bytes are made when somebody asks for them, as who sends it elsewhere does.

    Args:
        tensor: of any shape; nobody may change it any more. It is moved to the CPU.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach().cpu()
        numbers = self.tensor.numpy()
        self.__dict__.update(dtype=str(numbers.dtype), shape=numbers.shape, stype=SType.NUMPY)

    @cached_property
    def data(self) -> bytes:  # type: ignore[override]
        """In NumPy's format, no pickle."""
        return Array(self.tensor.contiguous().numpy()).data

    def deflate(self) -> bytes:
        """As Flower sends it: an `Array`, by whose name the other end reads it."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[Callable[..., Array], tuple[Any, ...]]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


def find(content: RecordDict, name: str, kind: type[Record]) -> Record | None:
    """A record of a message; None if it has none of that name and kind.

    (Flower's ``config_records`` and its like copy all records of a kind for each look.)
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def record_of(content: RecordDict, name: str, kind: type[Record]) -> Record:
    """A record that a message must have.

    Raises:
        KeyError: it has none of that name and kind.
    """
    if (record := find(content, name, kind)) is None:
        raise KeyError(name)
    return record
