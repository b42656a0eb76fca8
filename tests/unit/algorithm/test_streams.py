import itertools

import numpy as np
import pytest
from scipy import stats

from fedrac.algorithm.streams import Stream


def test_words_are_philox_keyed_by_the_name():
    stream = Stream(9, "order", 4, 17)
    key = int(stream.key[0]) | int(stream.key[1]) << 64
    expected = np.random.Philox(key=key).random_raw(12)
    assert np.array_equal(np.concatenate([stream.words(5), stream.words(7)]), expected)


def test_streams_of_different_names_differ():
    names = [(0, "order", 1, 12), (0, "order", 11, 2), (0, "order", 1), (1, "order", 1, 12), (0, "cohort", 1, 12)]
    words = {tuple(Stream(*name).words(4).tolist()) for name in names}
    assert len(words) == len(names)


@pytest.mark.parametrize("bound", [1, 2, 7, 2**40 + 1, 2**63 + 1])
def test_integers_are_below_the_bound(bound):
    drawn = [Stream(0, "t", i).below(bound) for i in range(200)]
    assert all(0 <= x < bound for x in drawn)
    if bound > 2**40:
        assert len(set(drawn)) == 200


class Scripted(Stream):
    """A stream whose words are given."""

    def __init__(self, words):
        self._words = list(words)

    def words(self, count):
        taken, self._words = self._words[:count], self._words[count:]
        return np.array(taken, dtype=np.uint64)


def test_words_beyond_the_last_multiple_are_rejected():
    bound = 2**63 + 1  # the largest multiple of it below 2^64 is itself
    words = [2**64 - 1, bound, bound - 1, 2**64 - 1, 5]
    assert Scripted(words).below(bound) == bound - 1
    # The same in bulk: rejected places are drawn again from the words that follow.
    limit = 2**64 - 2**64 % 10
    assert Scripted([limit, 12, limit - 1, limit, 37]).integers(10, 3).tolist() == [7, 2, 9]
    assert Scripted([2**64 - 1, 6]).integers(8, 2).tolist() == [7, 6]  # a power of two rejects nothing


def test_integers_are_uniform():
    counts = np.bincount(Stream(1, "t").integers(7, 7000), minlength=7)
    assert len(counts) == 7
    assert 0.001 < stats.chisquare(counts).pvalue < 0.999


@pytest.mark.parametrize("draw", ["permutation", "distinct"])
def test_every_order_is_equally_likely(draw):
    orders = {order: 0 for order in itertools.permutations(range(4))}
    for i in range(2400):
        stream = Stream(3, "t", i)
        found = stream.permutation(4) if draw == "permutation" else stream.distinct(4, 4)
        orders[tuple(found.tolist())] += 1
    assert 0.001 < stats.chisquare(list(orders.values())).pvalue < 0.999


def test_distinct_numbers_are_a_uniform_subset():
    subsets = {frozenset(s): 0 for s in itertools.combinations(range(6), 3)}
    for i in range(2000):
        subsets[frozenset(Stream(4, "t", i).distinct(6, 3).tolist())] += 1
    assert 0.001 < stats.chisquare(list(subsets.values())).pvalue < 0.999


def test_too_many_distinct_numbers():
    with pytest.raises(ValueError, match="cannot draw 4 distinct integers below 3"):
        Stream(0, "t").distinct(3, 4)


def test_seed_has_63_bits():
    assert Stream(0, "t").seed63() == int(Stream(0, "t").words(1)[0]) // 2


@pytest.mark.parametrize(("count", "size"), [(1, 1), (7, 7), (7, 3), (1000, 10), (1000, 999)])
def test_a_subset_is_the_start_of_the_permutation(count, size):
    """Both take the smallest words; one needs no order of the rest."""
    permuted = Stream(0, "t", count).permutation(count)[:size]
    assert Stream(0, "t", count).subset(count, size).tolist() == sorted(permuted.tolist())


@pytest.mark.parametrize("count", [1, 2, 7, 500, 20_000])
def test_a_subset_is_the_places_of_the_least_words(count):
    for size in {0, 1, min(2, count), count // 3, count - 1, count}:
        for round_ in range(5):
            least = Stream(1, "cohort", round_).words(count).argsort()[:size]
            assert Stream(1, "cohort", round_).subset(count, size).tolist() == sorted(least.tolist())


def test_a_subset_of_many_is_uniform_and_takes_few_words():
    """Every place is drawn as often, alone and together with its neighbour; a word for each is not drawn."""
    count, size, turns = 70_000, 700, 400
    places = np.zeros(count)
    together = 0
    for turn in range(turns):
        stream = Stream(6, "t", turn)
        found = stream.subset(count, size)
        assert len(found) == size and (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < count
        assert size <= stream._drawn < 1.1 * size
        places[found] += 1
        together += int((np.diff(found) == 1).sum())
    parts = places.reshape(70, -1).sum(1)
    assert 0.001 < stats.chisquare(parts).pvalue < 0.999
    expected = turns * size * (size - 1) / count
    assert abs(together - expected) < 4 * expected**0.5


@pytest.mark.parametrize("left", [0, 1, 5, 1000])
def test_almost_all_of_many(left):
    count = 70_000
    found = Stream(7, "t").subset(count, count - left)
    assert len(found) == count - left and (np.diff(found) > 0).all()
    assert set(range(count)) - set(found.tolist()) == set(Stream(7, "t").subset(count, left).tolist())


def test_a_small_subset_of_many_is_one_of_all_equally_likely(monkeypatch):
    monkeypatch.setattr("fedrac.algorithm.streams._ALL", 0)
    for size in (2, 4):  # fewer than half, and more
        subsets = {s: 0 for s in itertools.combinations(range(6), size)}
        for i in range(3000):
            subsets[tuple(Stream(8, "t", i).subset(6, size).tolist())] += 1
        assert 0.001 < stats.chisquare(list(subsets.values())).pvalue < 0.999
