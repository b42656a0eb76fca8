from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrac.training.memory import Kept, most_tokens
from fedrac.training.passes import MOST, cut, falling, passes

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def cost(lengths, parts):
    return sum(len(lengths[p]) * lengths[p][0] + 32 for p in parts)


@given(LENGTHS, st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_cuts_keep_the_bound(lengths, most):
    lengths = np.array(sorted(lengths, reverse=True))
    parts = cut(lengths, most)
    assert [i for p in parts for i in range(p.start, p.stop)] == list(range(len(lengths)))
    assert all(p.stop - p.start == 1 or (p.stop - p.start) * lengths[p.start] <= most for p in parts)


@given(LENGTHS)
@settings(max_examples=100, deadline=None)
def test_no_other_cuts_cost_less(lengths):
    lengths = np.array(sorted(lengths, reverse=True))
    edges = range(1, len(lengths))
    for chosen in range(2 ** len(edges)):  # every way to cut them
        at = [0, *(e for e in edges if chosen >> (e - 1) & 1), len(lengths)]
        assert cost(lengths, cut(lengths, MOST)) <= cost(lengths, [slice(a, b) for a, b in pairwise(at)])


@given(st.lists(st.lists(st.integers(1, 50), min_size=3, max_size=3), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_every_real_row_goes_through_once_and_keeps_its_client(lengths, data):
    lengths = torch.tensor(lengths)
    counts = torch.tensor([data.draw(st.integers(1, 3)) for _ in lengths])
    real = torch.arange(3) < counts[:, None]
    table = torch.arange(lengths.numel()).view(lengths.shape).flip(0)
    flat = lengths.flatten()
    found = passes(table, real, flat, 120)
    assert sorted(torch.cat([p.at for p in found]).tolist()) == real.flatten().nonzero()[:, 0].tolist()
    for each in found:
        own = flat[table.flatten()[each.at]]
        assert each.tokens == len(each.at) * own.max() and own.tolist() == sorted(own.tolist(), reverse=True)
        assert (each.layout.owner * 3 + each.layout.place).tolist() == each.at.tolist()
        assert (each.layout.clients, each.layout.rows) == (len(lengths), len(each.at))


def test_short_texts_pay_nothing_for_a_long_one():
    lengths = torch.tensor([10] * 63 + [2000])
    found = passes(torch.arange(64).view(16, 4), torch.ones(16, 4, dtype=torch.bool), lengths)
    assert sorted(p.tokens for p in found) == [630, 2000]


def test_rows_without_lengths_go_together():
    (whole,) = passes(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.bool), None, 1)
    assert whole.at.tolist() == list(range(12)) and whole.layout.owner is None and whole.tokens == 12


def test_equal_lengths_stay_in_order():
    assert falling(np.array([3, 5, 3, 5])).tolist() == [1, 3, 0, 2]


def test_what_a_pass_keeps_is_counted_once_and_without_the_weights():
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    with Kept(model) as found:
        y = model(x)
    (y * y).sum().backward()
    assert found.bytes == 8 * 5 * (8 + 16)  # the input, and what ReLU gives; the product y * y is outside


@pytest.mark.parametrize(("kept", "least"), [(0.0, MOST), (1e18, 1)])
def test_the_bound_follows_from_memory(kept, least):
    assert most_tokens(kept, torch.device("cpu")) == least
    assert 1 < most_tokens(1e6, torch.device("cpu")) < MOST
