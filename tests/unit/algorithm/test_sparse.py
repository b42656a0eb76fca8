"""Vectors of which the largest entries are sent: which they are, the bytes, and what no such vector is."""

import numpy as np
import pytest

from fedrac.algorithm.sparse import Densities, SparseVector, largest

DOUBLE = np.dtype("float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("density", [1e-9, 0.01, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("length", [1, 7, 8, 1000])
def test_what_comes_back(length, density, dtype):
    """The entries of largest magnitude, bit for bit, and zero elsewhere; as many bytes as it says."""
    vector = np.random.default_rng(length).standard_normal(length).astype(dtype)
    form = SparseVector(length, density, np.dtype(dtype))
    coded = form.encode(vector)
    assert coded.dtype == np.uint8 and len(coded) == form.size
    order = sorted(range(length), key=lambda place: -abs(vector[place]))[: form.count]
    expected = np.where(np.isin(np.arange(length), order), vector, 0)
    found = form.decode(coded)
    assert found.dtype == vector.dtype and (found == expected).all()


@pytest.mark.parametrize(
    ("length", "density", "size"),
    [
        (1000, 1.0, 1000 * 8),  # no places
        (1000, 0.25, 125 + 250 * 8),  # a bit for each of a thousand
        (1000, 0.01, 10 * 4 + 10 * 8),  # ten numbers
        (1000, 0.032, 125 + 32 * 8),  # 32 numbers would be longer
        (1000, 0.031, 31 * 4 + 31 * 8),
        (3, 0.01, 1 + 8),  # at least one entry
    ],
)
def test_bytes(length, density, size):
    assert SparseVector(length, density, DOUBLE).size == size


def test_of_equal_entries_the_first():
    assert largest(np.array([1.0, -2.0, 2.0, 0.0, -2.0, 3.0]), 3).tolist() == [1, 2, 5]
    assert largest(np.zeros(4), 2).tolist() == [0, 1]
    assert largest(np.array([1.0, np.nan, np.inf, 5.0]), 2).tolist() == [1, 2]  # what is not finite is not hidden


@pytest.mark.parametrize("density", [0.01, 0.25])
def test_places_that_are_none(density):
    """Too many, too few, twice the same, or beyond the end."""
    form = SparseVector(999, density, DOUBLE)
    good = form.encode(np.random.default_rng(0).standard_normal(999))
    said = form.size - 8 * form.count
    wrong = [good.copy() for _ in range(3)]
    wrong[0][:said] = 0
    wrong[1][:said] = 255
    wrong[2][:said] = good[:said][::-1]
    wrong[2][said - 1] |= 128
    for coded in wrong:
        with pytest.raises(ValueError, match=rf"the places are not {form.count} different ones of 999"):
            form.decode(coded)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_density_is_a_share(share):
    with pytest.raises(ValueError, match=r"method.upload_density=.* must lie in \(0, 1\]"):
        Densities(1.0, share)
