"""Rounding to a few bits: right in the mean, exact in bytes, the same everywhere."""

import numpy as np
import pytest

from fedrac.algorithm.rounding import BITS, BitsSpec, Rounding

SHAPES = {"w": (3, 40), "tall": (50, 2), "b": (5,), "kernel": (4, 2, 3, 3), "stack": (2, 3, 7)}


def values(seed=0, shapes=SHAPES):
    draw = np.random.default_rng(seed)
    return {name: draw.standard_normal(shape) * 10.0 ** draw.integers(-4, 4) for name, shape in shapes.items()}


def there_and_back(bits, x, round_=1):
    rounding = Rounding(bits, 7, ("upload", round_, 3))
    return rounding.decode(rounding.encode(x), {name: value.shape for name, value in x.items()})


@pytest.mark.parametrize("bits", BITS)
def test_bytes_are_counted_exactly(bits):
    rounding = Rounding(bits, 7, ("upload", 1, 3))
    coded = rounding.encode(values())
    assert coded.dtype == np.uint8 and coded.shape == (rounding.size(SHAPES),)
    numbers = {"w": 120, "tall": 100, "b": 5, "kernel": 72, "stack": 42}
    rows = {"w": 3, "tall": 2, "b": 1, "kernel": 4, "stack": 6}  # along the longer axis
    blocks = {"w": [64, 32, 24], "tall": [64, 32, 4], "b": [5], "kernel": [64, 8], "stack": [32, 10]}
    scales = {name: len(each) for name, each in blocks.items()} if bits == 1 else rows
    assert len(coded) == sum(2 * scales[n] + -(-numbers[n] * bits // 8) for n in SHAPES)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_entry_goes_to_one_of_its_neighbours_and_is_right_in_the_mean(bits):
    x = values()
    draws = [there_and_back(bits, x, round_) for round_ in range(400)]
    for name, value in x.items():
        found = np.array([draw[name] for draw in draws])
        matrix = value.reshape(4, -1) if name == "kernel" else value
        along = -1 if matrix.ndim < 2 or matrix.shape[-1] >= matrix.shape[-2] else -2
        step = 2 * np.abs(matrix).max(along, keepdims=True) * (1 + 2e-3) / (2**bits - 1) * np.ones_like(matrix)
        step = np.maximum(step, 2e-7).reshape(value.shape)  # no fp16 is smaller
        assert (np.abs(found - value) <= step).all()
        error = step / 2 / 20  # at most, of 400 draws
        assert (np.abs(found.mean(0) - value) <= 5 * error).all()


@pytest.mark.parametrize("kind", ["normal", "one", "two", "steep"])
def test_one_bit_is_nearly_unbiased_with_the_error_of_eden(kind):
    """Also of vectors that one Hadamard transform alone leaves with few values; |error|^2 near (pi/2 - 1) |x|^2."""
    x = {"normal": np.random.default_rng(1).standard_normal(512), "one": np.eye(512)[3], "two": np.zeros(512)}
    x["two"][[3, 200]], x["steep"] = (1.0, 0.4), 0.9 ** np.arange(512)
    draws = np.array([there_and_back(1, {"x": x[kind]}, round_)["x"] for round_ in range(1000)])
    length = np.linalg.norm(x[kind])
    # 1,000 draws leave sqrt(0.57 / 1000) = 0.024 of the length by chance.
    assert np.linalg.norm(draws.mean(0) - x[kind]) < 0.05 * length
    error = np.square(draws - x[kind]).sum(1).mean() / length**2
    assert error < 0.65


@pytest.mark.parametrize("bits", BITS)
def test_streams_are_named(bits):
    x = values()
    one, same, other = there_and_back(bits, x), there_and_back(bits, x), there_and_back(bits, x, 2)
    assert all(np.array_equal(one[name], same[name]) for name in x)
    assert not any(np.array_equal(one[name], other[name]) for name in ("w", "tall", "kernel"))


@pytest.mark.parametrize("bits", BITS)
def test_zeros_stay_zeros_and_what_is_not_finite_stays_so(bits):
    assert not there_and_back(bits, {"x": np.zeros((2, 40))})["x"].any()
    for bad in (np.nan, np.inf, 1e9):  # beyond fp16 a scale is infinite
        assert not np.isfinite(there_and_back(bits, {"x": np.full((2, 40), bad)})["x"]).all()


def test_what_is_no_number_of_bits():
    for bits in (3, 16, True, 0):
        with pytest.raises(ValueError, match=r"upload.bits=.* choose 1, 2, 4 or 8, or null"):
            BitsSpec(upload=bits)
