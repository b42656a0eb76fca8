"""A common scale of columns from sums alone: that of all rows in one place."""

import numpy as np
import pytest
import torch

from fedrac.data.standard import Scale, length, scale_of, sums

RNG = np.random.default_rng(1)
COLUMNS = [  # of very different sizes; the last one is constant
    *(RNG.normal(mean, deviation, 90) for mean, deviation in ((1e6, 2.0), (-3e-7, 1e-9), (0, 1e9))),
    *(RNG.integers(0, 2, 90), np.full(90, 7.0)),
]
ROWS = np.stack(COLUMNS, 1)


def test_the_scale_is_that_of_all_rows_together() -> None:
    words = torch.stack([sums(part) for part in (ROWS[:10], ROWS[10:11], ROWS[11:])])
    assert words.shape == (3, length(5)) and words.dtype == torch.int32
    found = scale_of(words.sum(0, dtype=torch.int32))
    assert found.mean == pytest.approx(ROWS.mean(0).tolist(), rel=1e-12)
    assert found.deviation == pytest.approx([*ROWS.std(0)[:4], 1.0], rel=1e-3)
    assert found == scale_of(words.flip(0).sum(0, dtype=torch.int32))
    scaled = found.apply(ROWS)
    np.testing.assert_allclose(scaled[:, 2:4].std(0), 1, rtol=1e-9)
    np.testing.assert_allclose(scaled[:, [2, 3, 4]].mean(0), 0, atol=1e-9)
    assert Scale.of(found.spec, 5) == found


def test_thousands_of_parties_fit() -> None:
    words = sums(np.full((1, 1), -0.75)) * torch.ones(2**15, 1, dtype=torch.int32)
    assert scale_of(words.sum(0, dtype=torch.int32)) == Scale((-0.75,), (1.0,))


def test_sums_of_no_rows_are_told_from_others() -> None:
    good = sums(ROWS[:, 3:4])
    for wrong in (torch.zeros_like(good), torch.cat([good[:24], torch.zeros(12, dtype=torch.int32)])):
        with pytest.raises(ValueError, match="those of no rows"):
            scale_of(wrong)
    with pytest.raises(ValueError, match="too large for a common scale"):
        sums(np.array([[1e40]]))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"mean": [0.0]}, "lists mean and deviation"),
        ({"mean": [0.0, 1.0], "deviation": [1.0, 1.0]}, "1 finite numbers"),
        ({"mean": [float("nan")], "deviation": [1.0]}, "1 finite numbers"),
        ({"mean": [0.0], "deviation": [0.0]}, "must be positive"),
    ],
)
def test_scales_that_are_none(spec: dict[str, list[float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Scale.of(spec, 1)
