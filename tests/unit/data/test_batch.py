"""Rows of examples that are asked for step by step, into memory that stays."""

import numpy as np
import torch

from fedrac.data.batch import Rows, batch
from fedrac.data.examples import Examples

CPU = torch.device("cpu")


def test_what_was_gathered_before_does_not_matter():
    draw = np.random.default_rng(7)
    examples = Examples(draw.normal(size=(20, 3, 2)).astype(np.float32), draw.integers(4, size=20))
    rows = Rows(examples, CPU, torch.float32)
    for count in (4, 9, 1, 9, 20, 3):  # the memory grows, and is larger than what is asked for
        index = draw.integers(20, size=count)
        inputs, targets = rows(torch.from_numpy(index))
        expected, labels = batch(examples.take(index), CPU, torch.float32)
        assert inputs.shape == (count, 3, 2) and inputs.equal(expected) and targets.equal(labels)


def test_the_next_rows_are_written_over_the_last_ones_and_never_over_the_examples():
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    rows = Rows(Examples(values.copy(), np.zeros(6, dtype=np.int64)), CPU, torch.float32)
    first, _ = rows(torch.tensor([5, 4, 3]))
    second, _ = rows(torch.tensor([0, 1]))
    assert second.data_ptr() == first.data_ptr() and first[:2].equal(second) and first[2].tolist() == [6.0, 7.0]
    second.zero_()  # as an activation in place may
    assert rows(torch.arange(6))[0].numpy().tolist() == values.tolist()
