import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from fedrac.data import Data, Examples, load
from fedrac.data.batch import Rows, batch, batches
from fedrac.data.coerce import coerce
from fedrac.data.tokens import join

X, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
TEST = (X[:2], Y[:2])
CPU = torch.device("cpu")


def mine(scale=1.0, floor=None):
    if floor is not None:
        raise RuntimeError(f"no floor {floor}")
    return (X * scale, Y), TEST


def test_importing_is_cheap():
    slow = ["torch", "hydra", "datasets", "flwr_datasets", "pandas", "mlxtend"]
    code = f"import fedrac.data, fedrac.partition.partition, sys; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_load_takes_the_import_path_of_any_function():
    data = load({"_target_": f"{__name__}.mine", "scale": 2.0})
    assert isinstance(data, Data) and data.outputs == 3 and np.array_equal(data.train.inputs, 2 * X)


SPECS = [
    ({}, r"data\._target_ is None: set it to the import path"),
    ({"_target_": "???"}, r"data\._target_ is '\?\?\?'"),
    ({"_target_": "nowhere.mine"}, r"data\._target_=nowhere\.mine cannot be used .*PYTHONPATH"),
    ({"_target_": "fedrac.data.mnist.embeded"}, r"fedrac\.data\.mnist\.embeded cannot be used"),
    ({"_target_": f"{__name__}.mine", "size": 1}, r"was given size: .*'size'.*; it takes \(scale=1.0, floor=None\)"),
    ({"_target_": "fedrac.data.mnist.idx"}, r"data\.path is not set"),
]


@pytest.mark.parametrize("spec, message", SPECS)
def test_a_bad_spec_names_the_mend(spec, message):
    with pytest.raises(ValueError, match=message):
        load(spec)


def test_errors_of_the_function_come_through():
    with pytest.raises(RuntimeError, match="no floor 3"):
        load({"_target_": f"{__name__}.mine", "floor": 3})


class Pairs:
    """A map-style dataset of pairs."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


FORMS = {
    "arrays": (X, Y),
    "lists": [X.tolist(), Y.tolist()],
    "tensors": (torch.tensor(X, requires_grad=True), torch.tensor(Y)),
    "columns": (X, Y[:, None]),
    "dataset": Pairs(X, Y.tolist()),
    "tensor dataset": TensorDataset(torch.tensor(X), torch.tensor(Y)),
}


@pytest.mark.parametrize("train", FORMS.values(), ids=FORMS)
def test_forms_of_a_classification(train):
    data = coerce((train, TEST))
    assert (data.task.name, data.outputs) == ("classification", 3)
    assert np.array_equal(data.train.inputs, X) and np.array_equal(data.train.targets, Y)
    assert data.train.inputs.dtype == np.float32 and data.train.targets.dtype == np.int64
    assert data.key == coerce(((X, Y), TEST)).key


def test_float_targets_make_a_regression():
    for y, outputs in ((Y / 2, 1), (X / 2, 2)):
        data = coerce(((X, y), (X, y)))
        assert (data.task.name, data.outputs, data.train.targets.dtype) == ("regression", outputs, np.float32)


def test_groups_and_flat_inputs():
    data = coerce(((Y, Y, [3, 3, 4, 4, 5, 5]), (Y, Y)))
    assert data.train.inputs.shape == (6, 1)
    assert data.train.groups.tolist() == [3, 3, 4, 4, 5, 5] and data.test.groups is None


def test_a_label_of_the_test_part_alone_counts():
    assert coerce(((X, Y), (X, Y + 1))).outputs == 4


def test_data_pass_through_and_keys_differ_with_the_content():
    data = coerce(((X, Y), TEST))
    assert coerce(data) is data
    assert coerce(((X + 1, Y), TEST)).key != data.key != coerce(((X, Y, Y), TEST)).key


ERRORS = {
    "none": (None, r"returned a NoneType: return a fedrac\.data\.Data, a pair"),
    "triple": ((X, Y, X), "returned a tuple of 3"),
    "arrays": ((X, Y), r"a part of the data is a ndarray"),
    "string": (("train", "test"), "a part of the data is a str"),
    "items": ((Pairs(X, Y), [1, 2, 3, 4]), "item 0 of a dataset is a int: make every item a pair"),
    "ragged": ((Pairs([X, Y], Y), TEST), "items of a dataset differ in shape"),
    "lengths": (((X, Y[:3]), TEST), r"\[6, 3\] rows"),
    "infinite": (((X / [[1, 1]] * [[1, np.inf]], Y), TEST), r"train inputs are not finite in row 0 \(and 6"),
    "nan target": (((X, np.full(6, np.nan)), TEST), "train targets are not finite"),
    "negative": (((X, Y - 1), TEST), "hold the label -1: number the classes"),
    "one-hot": (((X, np.eye(6, dtype=int)), TEST), r"targets are int64 of shape \(6, 6\)"),
    "words": (((X, list("abcabc")), TEST), "train targets are <U1"),
    "text": (((list("abcabc"), Y), TEST), "train inputs are <U1: make them numbers"),
    "mixed": (((X, Y / 2), TEST), r"regression with test targets of shape \(2,\)"),
    "widths": (((X, Y), (X[:, :1], Y)), r"training input has shape \(2,\), a test input \(1,\)"),
    "empty": (((X[:0], Y[:0]), (X[:0], Y[:0])), "the train part has no examples"),
}


@pytest.mark.parametrize("result, message", ERRORS.values(), ids=ERRORS)
def test_what_is_wrong_with_the_data_is_named(result, message):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        coerce(result)


def test_a_part_may_be_missing_where_it_is_not_needed():
    data = coerce(((X, Y), (X[:0], Y[:0])))
    data.check_filled("train")
    with pytest.raises(ValueError, match="the test part has no examples"):
        data.check_filled("train", "test")


def test_examples_are_checked_and_taken():
    examples = Examples(X.astype(np.float32), Y, Y)
    some = examples.take(np.array([4, 0]))
    assert len(some) == 2 and some.targets.tolist() == [1, 0] and some.groups.tolist() == [1, 0]
    assert some.inputs.flags.writeable
    with pytest.raises(ValueError, match="inputs are float64"):
        Examples(X, Y)
    with pytest.raises(ValueError, match="targets are float64"):
        Examples(X.astype(np.float32), Y / 2)
    with pytest.raises(ValueError, match=r"data\.task=ranking is unknown"):
        Data(examples, examples, "ranking", 3, "key")


# --- what the targets mean, and integers ------------------------------------------------------------------------------

YES = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0, 0], [1, 1]])
FORMS_OF_TARGETS = {
    "booleans": (YES.astype(bool), None, "multi_label", 2),
    "integers": (YES, "multi_label", "multi_label", 2),
    "floats": (YES.astype(float), "multi_label", "multi_label", 2),
    "values": (YES.astype(float), "regression", "regression", 2),
    "integer values": (YES, "regression", "regression", 2),
    "tags of two": (YES, "tagging", "tagging", 2),
    "tags": (YES * 3, None, "tagging", 4),
    "one yes or no": (YES[:, 0], "multi_label", "multi_label", 1),
    "labels": (YES[:, 0], None, "classification", 2),
}


@pytest.mark.parametrize("y, task, name, outputs", FORMS_OF_TARGETS.values(), ids=FORMS_OF_TARGETS)
def test_the_task_is_the_one_that_is_named_or_the_only_one_that_fits(y, task, name, outputs):
    data = coerce(((X, y), (X[:2], y[:2])), task)
    assert (data.task.name, data.outputs) == (name, outputs)
    assert np.array_equal(data.train.targets.reshape(y.shape), y) and data.task.fits(data.test.targets)


@pytest.mark.parametrize("y, message", [
    (YES, "all 0 or 1: say what they mean: data.task=multi_label .* or data.task=tagging"),
    (YES.astype(float), "data.task=multi_label, or data.task=regression for their squared error"),
    (YES[:, 0].astype(float), r"data.task=classification \(the targets as integers\) or multi_label \(one output\)"),
    (np.zeros((6, 2, 2)), r"of shape \(6, 2, 2\): make them"),
])  # fmt: skip
def test_targets_that_may_mean_two_things_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        coerce(((X, y), (X, y)))


@pytest.mark.parametrize("task, message", [
    ("multi_label", r"train targets hold \[4.0\] in row 2: a multi_label has 1"),
    ("tagging", r"train targets are float64 of shape \(6,\): make them \(N, k\) integer labels of a tagging"),
    ("classification", r"train targets are float64 of shape \(6,\): make them \(N,\) integer labels of a c"),
])  # fmt: skip
def test_targets_that_are_not_the_tasks(task, message):
    y = np.array([0.0, 1, 4, 0, 1, 1])
    with pytest.raises(ValueError, match=message):
        coerce(((X, y), (X, y)), task)


def test_the_task_and_the_loss_of_a_specification():
    spec = {"_target_": f"{__name__}.mine", "task": "multi_label"}
    with pytest.raises(ValueError, match=r"hold \[2.0\] in row 2"):
        load(spec)
    data = load({**spec, "task": "regression", "loss": "torch.dist"})
    assert data.task.name == "regression" and data.task.loss is torch.dist
    whole = {"_target_": "fedrac.data.synthetic.logistic_regression", "examples": 20, "test_examples": 5}
    assert load({**whole, "clients": 2, "task": None, "loss": None}).task.name == "classification"
    with pytest.raises(
        ValueError, match=r"regression with int64 train targets of shape \(20,\): it has \(N, k\) values"
    ):
        load({**whole, "clients": 2, "task": "regression"})


IDS = np.array([[2**24 + 1, 7], [257, 0]])  # neither in float32 nor in bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("of", [np.int32, np.int64, np.uint32, torch.int32])
def test_integers_stay_integers(dtype, of):
    x = torch.tensor(IDS, dtype=of) if isinstance(of, torch.dtype) else IDS.astype(of)
    examples = coerce(((x, [0, 1]), (x, [0, 1]))).train
    assert examples.inputs.dtype == np.int64 and examples.kind == "int64"
    chosen = Rows(examples, CPU, dtype)(torch.arange(2))
    for inputs, _ in (batch(examples, CPU, dtype), chosen, *batches(examples, 2, CPU, dtype)):
        assert inputs.dtype == torch.int64 and np.array_equal(inputs, IDS)


def test_booleans_and_numbers_are_numbers():
    for x in (IDS > 7, IDS / 2):
        examples = coerce(((x, [0, 1]), (x, [0, 1]))).train
        assert examples.kind == "float32" and batch(examples, CPU, torch.bfloat16)[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="training and the test inputs are float32 and int64"):
        coerce(((IDS, [0, 1]), (IDS / 2, [0, 1])))


def test_the_labels_of_texts_are_as_long_as_the_longest_of_a_batch():
    tags = np.array([[0, 1, 2], [1, -100, -100], [2, 0, -100]])
    examples = Examples(join([[5, 6, 7], [5], [5, 6]], 0), tags)
    inputs, targets = batch(examples.take(np.array([1, 2])), CPU, torch.float32)
    assert inputs.shape == (2, 2, 2) and targets.tolist() == [[1, -100], [2, 0]]
    assert Data(examples, examples, "tagging", 3, "key").task.fits(targets.numpy())
