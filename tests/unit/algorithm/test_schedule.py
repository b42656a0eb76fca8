import math

import pytest

from fedrac.algorithm.schedule import ScheduleSpec


def factors(rounds=10, **settings):
    spec = ScheduleSpec(**settings)
    return [spec.factor(t, rounds) for t in range(1, rounds + 1)]


def test_constant():
    assert factors() == [1.0] * 10


def test_linear_and_cosine_fall_from_one_towards_the_final_value():
    assert factors(shape="linear", final=0.5) == pytest.approx([1 - 0.05 * t for t in range(10)])
    cosine = factors(shape="cosine", final=0.2)
    assert cosine == pytest.approx([0.6 + 0.4 * math.cos(math.pi * t / 10) for t in range(10)])
    for shape in ("linear", "cosine"):
        # One round after the last the final value would be reached; before, the factor is above it.
        assert ScheduleSpec(shape, final=0.3).factor(11, 10) == pytest.approx(0.3)
        assert all(
            a > b > 0.3
            for a, b in zip(factors(shape=shape, final=0.3), factors(shape=shape, final=0.3)[1:], strict=False)
        )


def test_inverse_decreases_like_one_over_the_round():
    assert factors(shape="inverse", decay=0.5) == pytest.approx([1 / (1 + 0.5 * t) for t in range(10)])


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "inverse"])
def test_warmup_rises_linearly_to_one_and_the_shape_starts_after_it(shape):
    found = factors(rounds=13, shape=shape, warmup=3, final=0.1)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[3:] == pytest.approx(factors(rounds=10, shape=shape, final=0.1))


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "inverse"])
@pytest.mark.parametrize(("rounds", "warmup"), [(1, 0), (1, 5), (7, 7), (7, 6), (50, 3)])
def test_factors_are_positive_and_at_most_one(shape, rounds, warmup):
    assert all(0 < f <= 1 for f in factors(rounds, shape=shape, warmup=warmup))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_shape_that_follows_from_the_end_wants_to_know_it(shape):
    with pytest.raises(ValueError, match=f"schedule.shape={shape} needs the number of rounds"):
        ScheduleSpec(shape, warmup=5).factor(1, None)
    for other in ("constant", "inverse"):
        assert ScheduleSpec(other).factor(3, None) == ScheduleSpec(other).factor(3, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": "step"}, "schedule.shape='step' is unknown: choose one of constant, linear, cosine, inverse"),
        ({"warmup": -1}, "schedule.warmup=-1 must not be negative"),
        ({"final": 1.5}, r"schedule.final=1.5 must lie in \[0, 1\]"),
        ({"decay": -0.1}, "schedule.decay=-0.1 must be finite, and not negative"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduleSpec(**settings)
