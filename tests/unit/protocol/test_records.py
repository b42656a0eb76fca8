"""Messages within a process are passed, those that leave it are encoded, and both are the same to whoever counts."""

import pickle

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedrac.protocol.messages import from_record, payload_bytes, to_record
from fedrac.protocol.records import find, record_of

TENSORS = {
    "half": torch.rand(3, 4, dtype=torch.float64)[:, ::2],
    "counts": torch.arange(5),
    "words": torch.tensor([7, 255], dtype=torch.uint8),
    "none": torch.empty(0, 2),
    "one": torch.tensor(0.1, requires_grad=True),
}


def by_proto(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


def by_pickle(content: RecordDict) -> RecordDict:
    copy: RecordDict = pickle.loads(pickle.dumps(content))
    return copy


def by_objects(content: RecordDict) -> RecordDict:
    """As a SuperLink stores what it is sent."""
    objects = {name: found.deflate() for name, found in get_all_nested_objects(content).items()}
    read = inflate_object_from_contents(content.object_id, objects)
    assert isinstance(read, RecordDict)
    return read


def test_what_stays_in_the_process_is_the_same_memory() -> None:
    content = RecordDict({"x": to_record(TENSORS)})
    found = from_record(record_of(content, "x", ArrayRecord))
    assert list(found) == list(TENSORS)
    assert all(found[name].data_ptr() == tensor.data_ptr() for name, tensor in TENSORS.items())
    assert not found["one"].requires_grad


@pytest.mark.parametrize("sent", [by_proto, by_pickle, by_objects])
def test_what_leaves_the_process_is_encoded(sent) -> None:
    content = RecordDict({"x": to_record(TENSORS)})
    record = record_of(sent(content), "x", ArrayRecord)
    assert {type(array) for array in record.values()} == {Array}
    found = from_record(record)
    for name, tensor in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor.detach())
    assert payload_bytes(record) == payload_bytes(content["x"]) == sum(t.nbytes for t in TENSORS.values())  # type: ignore[arg-type]


def test_records_are_found_by_name_and_kind() -> None:
    content = RecordDict({"x": ConfigRecord({"a": 1})})
    assert find(content, "x", ConfigRecord) is content["x"]
    assert find(content, "x", ArrayRecord) is None and find(content, "y", ConfigRecord) is None
    for name, kind in (("x", ArrayRecord), ("y", ConfigRecord)):
        with pytest.raises(KeyError, match=name):
            record_of(content, name, kind)
