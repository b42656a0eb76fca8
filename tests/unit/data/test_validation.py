import numpy as np
import pytest

from fedrac import data

DIGITS = {"_target_": "fedrac.data.mnist.embedded", "classes": [0, 1]}
VALUES = {"_target_": "fedrac.data.synthetic.linear_regression", "examples": 50, "test_examples": 10}


@pytest.mark.parametrize("spec", [DIGITS, VALUES], ids=["classification", "regression"])
def test_the_held_out_part_comes_from_the_training_examples(spec):
    whole, divided = data.load(spec), data.load({**spec, "validation": 0.2})
    assert (len(divided.train), len(divided.test)) == (len(whole.train) * 4 // 5, len(whole.train) // 5)
    together = np.concatenate([divided.train.inputs, divided.test.inputs]).reshape(len(whole.train), -1)
    before = whole.train.inputs.reshape(len(whole.train), -1)
    assert np.array_equal(np.sort(together, axis=0), np.sort(before, axis=0))
    assert divided.key != whole.key  # another partition
    if whole.task.name == "classification":
        assert np.array_equal(np.bincount(divided.test.targets), np.bincount(whole.train.targets) // 5)


def test_without_validation_nothing_changes():
    assert data.load({**VALUES, "validation": None}).key == data.load(VALUES).key


def test_an_impossible_fraction_is_named():
    with pytest.raises(ValueError, match=r"evaluate.validation=1.5 is not between 0 and 1"):
        data.load({**VALUES, "validation": 1.5})
