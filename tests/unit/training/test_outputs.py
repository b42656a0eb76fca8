"""Which of the things that a model returns are its outputs."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch

from fedrac.training.evaluation import call
from fedrac.training.outputs import outputs_of

LOGITS, OTHER = torch.arange(6.0).reshape(2, 3), torch.zeros(2, 4)
Both = namedtuple("Both", ["hidden", "logits"])
Wrong = namedtuple("Wrong", ["hidden", "scores"])

FOUND = {
    "tensor": LOGITS,
    "dict": {"hidden": OTHER, "logits": LOGITS},
    "one of a dict": {"scores": LOGITS, "cache": None},
    "tuple": (LOGITS, OTHER),
    "list": [LOGITS, (OTHER, OTHER)],
    "named tuple": Both(OTHER, LOGITS),
    "object": SimpleNamespace(logits=LOGITS, hidden=OTHER),
    "ordered": OrderedDict(out=LOGITS),
}


@pytest.mark.parametrize("returned", FOUND.values(), ids=FOUND)
def test_the_outputs_are_found(returned):
    assert outputs_of(returned) is LOGITS


REFUSED = {
    "two of a dict": ({"a": LOGITS, "b": OTHER}, r"returns a dict with the tensors a, b: name the outputs 'logits'"),
    "two of a named tuple": (Wrong(OTHER, LOGITS), "returns a Wrong with the tensors hidden, scores"),
    "none": ({"loss": 1.0}, "returns a dict without a tensor"),
    "nothing": (None, "returns a NoneType without a tensor"),
    "nested": (((LOGITS, OTHER), OTHER), "returns a tuple of 2, the first a tuple"),
    "empty": ((), "returns a tuple of 0: put the outputs first"),
}


@pytest.mark.parametrize("returned, message", REFUSED.values(), ids=REFUSED)
def test_what_could_be_several_things_is_refused_by_name(returned, message):
    with pytest.raises(ValueError, match=message):
        outputs_of(returned)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_outputs_are_at_least_float32(dtype):
    found = call(lambda x: {"logits": x}, LOGITS.to(dtype))
    assert found.dtype == torch.promote_types(dtype, torch.float32) and torch.equal(found.float(), LOGITS)


def test_inputs_in_a_mapping_are_keywords():
    assert torch.equal(call(lambda x, mask: x * mask, {"x": LOGITS, "mask": LOGITS}), LOGITS.square())
