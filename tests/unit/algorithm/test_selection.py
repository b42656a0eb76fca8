"""Who can be drawn, and how often each is."""

from pathlib import Path

import numpy as np
import pytest

from fedrac.algorithm.selection import SelectionSpec, draw_cohort

CLIENTS, ONES = np.arange(8), np.ones(8, np.int64)


def drawn(spec: SelectionSpec, examples: np.ndarray, size: int, rounds: int) -> np.ndarray:
    """How often each client was, (M,)."""
    cohorts = [spec.draw(CLIENTS, examples, size, 7, t) for t in range(1, rounds + 1)]
    assert all(cohort == sorted(set(cohort)) and len(cohort) <= size for cohort in cohorts)
    return np.bincount(np.concatenate(cohorts), minlength=8) / rounds


def test_uniform_is_the_cohort_of_the_paper() -> None:
    for t in range(1, 20):
        assert SelectionSpec().draw(CLIENTS, ONES, 3, 5, t) == draw_cohort(CLIENTS, 3, 5, t)


def test_by_size_one_client_is_drawn_in_proportion_to_its_examples() -> None:
    examples = np.array([1, 2, 3, 4, 5, 6, 7, 12])
    found = drawn(SelectionSpec("size"), examples, 1, 4000)
    np.testing.assert_allclose(found, examples / 40, atol=4 * 0.5 / 4000**0.5)


def test_by_size_two_are_drawn_without_replacement() -> None:
    """P(c) = p_c + sum over the first one d of p_d p_c / (1 - p_d)."""
    shares = np.array([1, 1, 1, 1, 1, 1, 2, 8]) / 16
    expected = [p + sum(q * p / (1 - q) for d, q in enumerate(shares) if d != c) for c, p in enumerate(shares)]
    found = drawn(SelectionSpec("size"), np.rint(shares * 16).astype(np.int64), 2, 4000)
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / 4000**0.5)
    assert found.sum() == pytest.approx(2)


def test_equal_sizes_are_uniform() -> None:
    np.testing.assert_allclose(drawn(SelectionSpec("size"), ONES * 9, 2, 4000), 0.25, atol=4 * 0.44 / 4000**0.5)


def test_with_a_probability_everybody_is_on_line_as_often() -> None:
    spec = SelectionSpec(available=0.25)
    there = np.mean([spec.on_line(CLIENTS, 3, t) for t in range(1, 4001)], axis=0)
    np.testing.assert_allclose(there, 0.25, atol=4 * 0.44 / 4000**0.5)
    for t in range(1, 30):
        there = spec.on_line(CLIENTS, 3, t)
        cohort = spec.draw(CLIENTS, ONES, 3, 3, t)
        assert len(cohort) == min(3, there.sum()) and all(there[client] for client in cohort)


def test_a_trace_says_who_is_on_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("client,from,until\n0,1,2\n3,2,9\n0,5,5\n")
    spec = SelectionSpec(available=str(path))
    found = [CLIENTS[spec.on_line(CLIENTS, 1, t)].tolist() for t in range(1, 7)]
    assert found == [[0], [0, 3], [3], [3], [0, 3], [3]]
    assert spec.draw(CLIENTS, ONES, 4, 1, 2) == [0, 3] and spec.draw(CLIENTS, ONES, 4, 1, 10) == []


@pytest.mark.parametrize("text", ["client,from\n1,2\n", "client,from,until\n1,2,x\n", "client,from,until\n1,2\n"])
def test_a_trace_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=r"cohort\.available=.*whole numbers in client, from, until"):
        SelectionSpec(available=str(tmp_path / "bad.csv"))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=r"cohort\.available=.* must lie in \(0, 1\]"):
        SelectionSpec(available=share)
