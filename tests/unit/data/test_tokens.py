"""Texts of different lengths: what is stored, taken, padded and made a batch of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrac.data.batch import IGNORED, batch, batches, order_of
from fedrac.data.examples import Examples
from fedrac.data.store import stored
from fedrac.data.tokens import Tokens, join

ROWS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=7), min_size=1, max_size=6)
CPU = torch.device("cpu")


def rows_of(tokens):
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]


@given(ROWS, st.data())
def test_taken_texts_are_those_asked_for_in_that_order(rows, data):
    index = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)), dtype=np.int64)
    types = [[i % 2 for i in row] for row in rows]
    taken = join(rows, 5, types)[index]
    assert rows_of(taken) == [rows[i] for i in index] and taken.pad == 5
    assert taken.types.tolist() == [t for i in index for t in types[i]]


@given(ROWS)
def test_padding_stands_behind_and_is_masked(rows):
    ids, real, types = join(rows, 5, [[1] * len(row) for row in rows]).padded().swapaxes(0, 1)
    width = max(map(len, rows))
    assert join(rows, 5).padded().shape == (len(rows), 2, width)
    assert ids.tolist() == [row + [5] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    assert real.tolist() == types.tolist() == mask


def test_every_token_knows_its_text():
    tokens = join([[1, 2], [3], [4, 5, 6]], 0)
    assert [tokens.text_of(place) for place in range(6)] == [0, 0, 1, 2, 2, 2]


def test_what_does_not_fit_is_refused():
    ids, offsets = np.arange(3, dtype=np.int32), np.array([0, 1, 3])
    for arguments, message in (
        ((ids.astype(np.int64), offsets, 0), "make them int32 and int64"),
        ((ids, np.array([0, 2]), 0), "from 0 to the number of ids, 3"),
        ((ids, np.array([0, 3, 3]), 0), "text 1 has no tokens"),
        ((ids, offsets, 0, ids[:2]), "one int32 for every token id"),
    ):
        with pytest.raises(ValueError, match=message):
            Tokens(*arguments)


def test_the_store_gives_back_what_it_got():
    parts = [Examples(join(rows, 7, rows), np.arange(len(rows))) for rows in ([[1], [2, 3]], [[4, 5, 6]])]
    for _ in range(2):  # built, then read
        data = stored("test.tokens", {}, "classification", lambda: (*parts, ["no", "yes", "maybe"]), metrics=["f1"])
        for found, given_ in zip((data.train, data.test), parts, strict=True):
            assert rows_of(found.inputs) == rows_of(given_.inputs) and found.inputs.pad == 7
            assert np.array_equal(found.inputs.types, given_.inputs.types)
        assert (data.outputs, data.labels, data.metrics) == (3, ("no", "yes", "maybe"), ("f1",))


def test_a_language_model_predicts_the_next_token_but_no_padding():
    inputs, targets = batch(Examples(join([[1, 2, 3], [4]], 9), None), CPU, torch.float64)
    assert inputs[:, 0].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert targets.tolist() == [[2, 3, IGNORED], [IGNORED] * 3]


def test_batches_of_texts_are_in_order_of_length_and_as_wide_as_their_own_longest():
    examples = Examples(join([[1], [2, 2], [3], [4, 4]], 0), np.array([0, 1, 2, 3]))
    widths = [(x.shape, y.tolist()) for x, y in batches(examples, 3, CPU, torch.float32)]
    assert widths == [((3, 2, 2), [1, 3, 0]), ((1, 2, 1), [2])]
    assert order_of(examples).tolist() == [1, 3, 0, 2]
    rows = Examples(np.zeros((3, 2), np.float32), np.array([0, 1, 2]))
    assert order_of(rows).tolist() == [0, 1, 2]


def test_long_texts_are_tested_a_few_at_a_time():
    examples = Examples(join([[1] * n for n in (3000, 2000, 3, 3)], 0), np.arange(4))
    assert [x.shape[::2] for x, _ in batches(examples, 64, CPU, torch.float32)] == [(2, 3000), (2, 3)]
