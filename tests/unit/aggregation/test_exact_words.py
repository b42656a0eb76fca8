"""Sums of words are exact, whatever the numbers and their order."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrac.aggregation import exact_words

NUMBERS = st.floats(-(2.0**99), 2.0**99).filter(lambda x: x == 0 or abs(x) > 2**-10)  # whole multiples of 2^-64


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_the_sum_is_exact(rows: list[tuple[float, float]]) -> None:
    words = torch.stack([exact_words.encode(row) for row in rows])
    assert words.shape == (len(rows), exact_words.length(2)) and words.dtype == exact_words.DTYPE
    expected = [sum(map(Fraction, column)) for column in zip(*rows, strict=True)]
    assert exact_words.decode(words.sum(0, dtype=exact_words.DTYPE)) == expected
    assert exact_words.decode(words.flip(0).sum(0, dtype=exact_words.DTYPE)) == expected


def test_small_numbers_are_rounded_to_a_unit() -> None:
    (found,) = exact_words.decode(exact_words.encode([1e-30]))
    assert abs(found) <= Fraction(1, 2**64)


def test_as_many_parties_as_it_says_fit() -> None:
    words = exact_words.encode([-0.75]) * torch.ones(exact_words.PARTIES, 1, dtype=exact_words.DTYPE)
    assert exact_words.decode(words.sum(0, dtype=exact_words.DTYPE)) == [Fraction(-3 * exact_words.PARTIES, 4)]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 1e31])
def test_numbers_that_do_not_fit(number: float) -> None:
    with pytest.raises(ValueError, match="too large to be added up"):
        exact_words.encode([1.0, number])
