"""What a model must take and give, and what is said where it does not: the error itself, then what helps."""

import numpy as np
import pytest
import torch
from torch import nn

from fedrac.data import Examples
from fedrac.data.tasks import named, with_loss
from fedrac.data.tokens import join
from fedrac.training.model_check import check_model

CPU = torch.device("cpu")
FLOATS = Examples(np.ones((4, 3), np.float32), np.array([0, 1, 1, 0]))
IDS = Examples(np.array([[1, 2, 3], [4, 5, 6]]), np.array([0, 1]))
TEXTS = Examples(join([[1, 2, 3], [4, 5]], 0), np.array([0, 1]))


class Embedded(nn.Module):
    def __init__(self, rows: int, outputs: int = 2, texts: bool = False) -> None:
        super().__init__()
        self.embedding, self.head, self.texts = nn.Embedding(rows, 4), nn.Linear(4, outputs), texts

    def forward(self, x):
        return self.head(self.embedding(x[:, 0] if self.texts else x).mean(1))


class Broken(nn.Module):
    def forward(self, x):
        raise self.error


def broken(error: Exception) -> nn.Module:
    model = Broken()
    model.error = error
    return model


def check(model: nn.Module, examples: Examples, task: str = "classification", dtype=torch.float32) -> None:
    check_model(model.to(dtype), examples, named(task), CPU, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_fits_passes(dtype):
    check(nn.Linear(3, 2), FLOATS, dtype=dtype)
    check(Embedded(7), IDS, dtype=dtype)
    check(Embedded(6, texts=True), TEXTS, dtype=dtype)


WRONG = {
    "floats for ids": (Embedded(7), FLOATS, "embedding takes integers: return the ids as integers"),
    "ids for floats": (nn.Linear(3, 2), IDS, r"of shape \(3,\), int64: RuntimeError: .*Integers stay integers"),
    "an id too large": (Embedded(6), IDS, "index out of range in self. Does an embedding have a row for every id"),
    "shape": (nn.Linear(5, 2), FLOATS, r"of shape \(3,\), float32: RuntimeError: mat1 .*Set model.inputs and its like"),
    "texts": (Embedded(5, texts=True), TEXTS, "IndexError: index out of range in self. Set data.tokenizer"),
    "of any other kind": (broken(RuntimeError("no such thing")), FLOATS, "float32: RuntimeError: no such thing$"),
    "of the model": (broken(AttributeError("no 'x'")), TEXTS, "token ids of up to 5: AttributeError: no 'x'$"),
    "missing": (broken(KeyError("mask")), FLOATS, "KeyError: 'mask'$"),
    "integers": (nn.Flatten(), IDS, "outputs are torch.int64: make them real numbers"),
}


@pytest.mark.parametrize("model, examples, message", WRONG.values(), ids=WRONG)
def test_the_error_comes_first_and_the_hint_is_right(model, examples, message):
    with pytest.raises(ValueError, match=message):
        check(model, examples)


def test_a_dtype_in_which_a_model_does_not_compute_is_named():
    error = RuntimeError("Expected mat_a to be Float32, BFloat16 or Float16 matrix, got Double")
    with pytest.raises(ValueError, match=r"got Double\. Not every model .* try runtime.dtype=float32") as raised:
        check(broken(error), TEXTS, dtype=torch.float64)
    assert "tokenizer" not in str(raised.value)
    with pytest.raises(ValueError, match=r"got Double$"):
        check(broken(error), TEXTS)


LOSSES = {
    "a mean": (lambda outputs, targets: nn.functional.cross_entropy(outputs, targets), r"gives \(\) for 2 examples"),
    "two each": (lambda outputs, targets: outputs, r"gives \(2, 2\) for 2 examples: make it \(2,\)"),
    "no tensor": (lambda outputs, targets: 1.0, "gives float for 2 examples"),
    "an error": (lambda outputs, targets: outputs - targets[:1].expand(5), "does not take outputs of shape"),
}


@pytest.mark.parametrize("loss, message", LOSSES.values(), ids=LOSSES)
def test_a_loss_of_ones_own_is_one_number_for_each_example(loss, message):
    with pytest.raises(ValueError, match=message):
        check_model(nn.Linear(3, 2), FLOATS, with_loss("classification", loss), CPU, torch.float32)
