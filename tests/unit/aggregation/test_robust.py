"""Robust means: closed forms, and what hostile rows can and cannot do to them."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedrac.aggregation.robust import Mean, geometric_median, krum, lengths, robust_mean, trimmed_mean

ROBUST = [mean for mean in get_args(Mean) if mean != "mean"]


def honest(clients: int = 9, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(clients, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_coordinate_wise_closed_forms() -> None:
    rows = honest(8)
    for trim in range(4):
        kept = np.sort(rows.numpy(), 0)[trim : 8 - trim]
        assert torch.allclose(trimmed_mean(rows, trim), torch.from_numpy(kept.mean(0)), rtol=0, atol=1e-15)
    for clients in (1, 2, 7, 8):
        some = rows[:clients]
        expected = torch.from_numpy(np.median(some.numpy(), 0))
        assert torch.allclose(robust_mean(some, "median", 1), expected, rtol=0, atol=1e-15)
    assert torch.allclose(robust_mean(rows, "mean", 1), rows.mean(0), rtol=0, atol=1e-15)


def test_geometric_median_of_a_triangle_sees_equal_angles() -> None:
    """Fermat's point: its three sides are seen at 120 degrees."""
    triangle = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    rays = triangle - geometric_median(triangle)
    rays = rays / lengths(rays).unsqueeze(1)
    assert torch.allclose(rays @ rays.T, 1.5 * torch.eye(3, dtype=torch.float64) - 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("clients", [2, 3, 6, 11])
def test_geometric_median_has_the_least_sum_of_distances(clients: int) -> None:
    rows = honest(clients, seed=clients)
    point = geometric_median(rows)
    least = lengths(rows - point).sum()
    for other in [*rows, rows.mean(0), *(point + 0.01 * honest(20, seed=7))]:
        assert least <= lengths(rows - other).sum() + 1e-9


def test_geometric_median_on_a_row_and_on_equal_rows() -> None:
    line = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64)
    assert geometric_median(line)[0] == pytest.approx(1.0, abs=1e-6)
    same = torch.ones(5, 3, dtype=torch.float64)
    assert torch.equal(geometric_median(torch.cat([same, 1e9 * same[:2]])), same[0])


@pytest.mark.parametrize("mean", ROBUST)
@given(place=st.integers(0, 8), other=st.integers(0, 8), size=st.sampled_from([1e3, 1e30, 1e200]), sign=st.booleans())
@settings(max_examples=25, deadline=None)
def test_two_of_nine_hostile_rows_move_it_no_further_than_honest_ones_are_apart(
    mean: Mean, place: int, other: int, size: float, sign: bool
) -> None:
    """The plain mean goes as far as they want."""
    rows = honest()
    rows[[place, other]] = -size if sign else size
    kept = torch.tensor([c for c in range(9) if c not in (place, other)])
    centre, spread = rows[kept].mean(0), lengths(rows[kept] - rows[kept].mean(0)).max()
    moved = lengths((robust_mean(rows, mean, 2) - centre).unsqueeze(0))
    assert moved <= 2 * (9 - 2) / (9 - 4) * spread  # Pillutla et al. (2022) for the geometric median
    assert lengths((robust_mean(rows, "mean", 2) - centre).unsqueeze(0)) > 10 * spread


def test_krum_is_an_honest_row_in_the_crowd() -> None:
    rows = honest()
    rows[:2] = torch.tensor([[100.0], [101.0]])  # near one another, which does not help them
    chosen = krum(rows, 2)
    scores = [lengths(rows - row).square().sort().values[1:6].sum() for row in rows]
    assert torch.equal(chosen, rows[int(np.argmin(scores))]) and any(torch.equal(chosen, row) for row in rows[2:])


def test_krum_counts_all_neighbours_but_the_hostile_and_two() -> None:
    """Six on a line: the nearest to its two, three and four nearest neighbours is another one each time."""
    line = torch.tensor([[1.0], [11.0], [1.0], [10.0], [5.0], [7.0]], dtype=torch.float64)
    assert krum(line, 1).item() == 7.0


def test_krum_takes_the_first_of_equals() -> None:
    assert krum(torch.tensor([[1.0], [0.0], [0.0], [1.0], [5.0]], dtype=torch.float64), 1).item() == 1.0


@pytest.mark.parametrize("mean", get_args(Mean))
@given(order=st.permutations(range(9)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_clients_does_not_matter(mean: Mean, order: list[int]) -> None:
    rows = honest()
    found, expected = robust_mean(rows[order], mean, 2), robust_mean(rows, mean, 2)
    assert torch.allclose(found, expected, rtol=0, atol=0 if mean in ("trimmed_mean", "median", "krum") else 1e-9)


@pytest.mark.parametrize("mean", get_args(Mean))
def test_it_moves_and_scales_with_the_rows(mean: Mean) -> None:
    rows, shift = honest(), honest(1, seed=3)[0]
    expected = 2.5 * robust_mean(rows, mean, 2) + shift
    assert torch.allclose(robust_mean(2.5 * rows + shift, mean, 2), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("mean", "hostile", "clients"), [("trimmed_mean", 2, 4), ("krum", 2, 6), ("krum", 1, 4)])
def test_too_few_rows(mean: Mean, hostile: int, clients: int) -> None:
    with pytest.raises(
        ValueError, match=rf"guard.mean={mean} with guard.hostile={hostile} needs at least {clients + 1}"
    ):
        robust_mean(honest(clients), mean, hostile)
    robust_mean(honest(clients + 1), mean, hostile)
