"""What clients are given as, and errors that say which client's is wrong."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import twins

from fedrac.api.client_data import gather
from fedrac.partition import partition

X, Y = twins.pair(8, 0)
FRAME = pd.DataFrame(X, columns=list("abcdef")).assign(label=Y)


def test_each_client_has_its_examples_in_order() -> None:
    examples = gather(twins.clients(), twins.held_out())
    division = partition.make({"scheme": "natural"}, examples, seed=3)
    assert division.sizes.tolist() == list(twins.SIZES)
    for client, (x, y) in enumerate(twins.clients()):
        held = examples.train.take(division.of(client))
        assert np.array_equal(held.inputs, x) and np.array_equal(held.targets, y)
    assert np.array_equal(examples.test.inputs, twins.held_out()[0]) and examples.outputs == 3


def test_a_label_that_one_client_or_the_test_part_has_counts() -> None:
    assert gather([(X, Y), (X, Y + 4)]).outputs == 7
    assert gather([(X, Y)], (X, Y + 6)).outputs == 9


def test_labels_may_be_true_and_false() -> None:
    examples = gather([(X, Y > 0), (torch.tensor(X), torch.tensor(Y > 0))])
    assert (examples.task.name, examples.outputs, examples.train.targets.dtype) == ("classification", 2, np.int64)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "no clients": ([], None, r"clients=\[\] is empty"),
    "an empty client": ([(X, Y), (X[:0], Y[:0])], None, r"clients\[1\] has no examples: leave it out"),
    "an empty frame": ([FRAME, FRAME, FRAME[:0]], None, r"clients\[2\] has no examples"),
    "arrays not in pairs": ((X, Y), None, r"clients\[0\]: a part of the data is a ndarray: make it a pair \(x, y\)"),
    "a triple": ([(X, Y), (X, Y, Y)], None, r"clients\[1\] is a triple: give a pair"),
    "lengths": ([(X, Y), (X, Y[:3])], None, r"clients\[1\] has 8 inputs and 3 targets"),
    "kinds": (
        [(X, Y), (X, Y.astype(float))],
        None,
        r"clients\[1\] has floating-point targets, clients\[0\] integer ones",
    ),
    "kinds of the test": ([(X, Y)], (X, Y / 2), r"test has floating-point targets"),
    "words": (
        [(X, Y), (X, list("abcabcab"))],
        None,
        r"clients\[1\] targets are <U1 .*: make them \(N,\) integer labels of a classification",
    ),
    "below zero": ([(X, Y), (X, Y - 1)], None, r"clients\[1\] targets hold the label -1"),
    "one-hot": (
        [(X, np.eye(8, dtype=int))],
        None,
        r"targets are int64 of shape \(8, 8\), all 0 or 1: say what they mean",
    ),
    "shapes": ([(X, Y), (X[:, :2], Y)], None, r"an input of clients\[1\] has shape \(2,\) and is float32"),
    "whole numbers": ([(X, Y), (X.astype(int), Y)], None, r"clients\[1\] has shape \(6,\) and is int64"),
    "an empty test": ([(X, Y)], (X[:0], Y[:0]), "test has no examples: leave it out"),
    "widths": ([(X, X), (X, X[:, :2])], None, r"a target of clients\[1\] has shape \(2,\)"),
    "not finite": ([(X, Y), (X + np.nan, Y)], None, r"clients\[1\] inputs are not finite in row 0"),
    "words in a frame": ([FRAME.assign(a="?")], None, r"column 'a' of clients\[0\] is .*: make it numbers, or drop it"),
    "labels of a frame": ([FRAME.assign(label="cat")], None, r"targets are (object|str|<U)"),
    "gaps in a frame": ([FRAME.assign(b=[1.0] * 7 + [None])], None, r"clients\[0\] inputs are not finite in row 7"),
}


@pytest.mark.parametrize("clients, test, message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_of_the_client(clients: Any, test: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gather(clients, test)


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"clients\[0\] has no column 'labels': its columns are a, b, c, d, e, f, lab"):
        gather([FRAME], target="labels")
