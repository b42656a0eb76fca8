"""The common grid of secure aggregation: integers that add up to what the updates add up to."""

import math

import pytest
import torch
from torch import Tensor

from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureGrid, SecureSpec, grid_of
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.streams import Stream

ON = SecureSpec(True)
CLIP = GuardSpec(clip=2.0)
SIX = ServerSpec(6)


def rows(count: int, entries: int, length: float) -> Tensor:
    found = torch.randn(count, entries, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return length * found / found.norm(dim=1, keepdim=True)


def encoded(grid: SecureGrid, given: Tensor, losses: list[float]) -> Tensor:
    pairs = enumerate(zip(given, losses, strict=True))
    return torch.stack([grid.encode(row, loss, Stream(1, "grid", 1, i)) for i, (row, loss) in pairs])


@pytest.mark.parametrize(("bits", "width"), [(4, 8), (8, 16), (16, 32), (24, 32), (30, 64)])
def test_the_sum_of_words_is_the_sum_of_updates_within_a_step_each(bits: int, width: int) -> None:
    grid, given = grid_of(SecureSpec(True, bits), CLIP, 10, 10, 12), rows(10, 12, 1.0)
    assert grid.width == width and grid.length(12) == len(encoded(grid, given[:1], [0.0])[0])
    words = encoded(grid, given, [0.5 + i for i in range(10)])
    total = grid.decode(words.sum(0, dtype=grid.dtype), 10)
    assert float((total.row - given.sum(0)).abs().max()) <= 10 * grid.step
    assert total.loss == 50.0 and total.uncut == 10


def test_rounding_is_without_bias() -> None:
    grid = grid_of(SecureSpec(True, 4, range=1.0), GuardSpec(), 10, 10, 5)
    row = torch.tensor([0.3, -0.71, 0.0, 0.999, 1e-3], dtype=torch.float64)
    words = torch.stack([grid.encode(row, 0.0, Stream(1, "grid", i))[:5] for i in range(4000)]).double()
    assert float((words.mean(0) * grid.step - row).abs().max()) < 4 * grid.step / 2 / math.sqrt(4000)
    assert float(words[:, 2].abs().max()) == 0.0


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("length", [0.5, 1.99, 2.0, 50.0])
def test_no_update_is_longer_than_the_bound_after_rounding(bits: int, length: float) -> None:
    grid, given = grid_of(SecureSpec(True, bits), CLIP, 20, 20, 60), rows(20, 60, length)
    words = encoded(grid, given, [0.0] * 20)
    assert float((words[:, :60].double() * grid.step).norm(dim=1).max()) <= 2.0
    assert grid.decode(words.sum(0, dtype=grid.dtype), 20).uncut == (20 if length <= 2.0 - grid.step * 60**0.5 else 0)


def test_what_lies_beyond_the_range_is_cut_and_counted() -> None:
    grid = grid_of(SecureSpec(True, range=0.5), GuardSpec(), 2, 2, 2)
    words = encoded(grid, torch.tensor([[0.1, 9.0], [0.1, 0.2]], dtype=torch.float64), [1e9, -3.0])
    total = grid.decode(words.sum(0, dtype=grid.dtype), 2)
    torch.testing.assert_close(total.row, torch.tensor([0.2, 0.7], dtype=torch.float64), rtol=0, atol=2 * grid.step)
    assert total.uncut == 1 and total.loss == 2**16 - 1


def test_shares_of_noise_add_up_to_the_noise() -> None:
    """Of 16 clients, at least 9 of which answer: with 9 the noise is what was wanted, with more it is more."""
    guard = GuardSpec(clip=2.0, noise=1.5)
    grid = grid_of(ON, guard, 16, 9, 40_000)
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(40_000, generator=generator, dtype=torch.float64) for _ in range(9)]
    zero = torch.zeros(40_000, dtype=torch.float64)
    words = [grid.encode(zero, 3.0, Stream(1, "grid", i), normal) for i, normal in enumerate(draws)]
    total = grid.decode(torch.stack(words).sum(0, dtype=grid.dtype), 9)
    assert float(total.row.std()) == pytest.approx(1.5 * 2.0, rel=0.02) and abs(float(total.row.mean())) < 0.06
    assert total.loss is None and total.uncut is None  # no noise hides them


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_no_word(value: float) -> None:
    grid = grid_of(ON, CLIP, 2, 2, 2)
    for row, loss in ((torch.tensor([0.0, value]), 0.0), (torch.zeros(2), value)):
        with pytest.raises(ValueError, match="the update is not finite"):
            grid.encode(row.double(), loss, Stream(1, "grid"))


def test_a_sum_beyond_the_grid_is_none() -> None:
    grid = grid_of(ON, CLIP, 3, 3, 4)
    words = torch.zeros(grid.length(4), dtype=grid.dtype)
    for place, value in ((0, 3 * grid.limit + 1), (1, -3 * grid.limit - 1), (4, -1)):
        wrong = words.clone()
        wrong[place] = value
        with pytest.raises(ValueError, match="larger than 3 updates on the grid can be"):
            grid.decode(wrong, 3)


@pytest.mark.parametrize(
    ("spec", "guard", "method", "server", "reason"),
    [
        (ON, GuardSpec(mean="median"), Method(), SIX, "guard.mean=median compares clients"),
        (ON, GuardSpec(clip=1.0, clip_quantile=0.5), Method(), SIX, "guard.clip_quantile=0.5 follows"),
        (ON, CLIP, Method(train="both", average="products"), SIX, "method.average=products is no sum"),
        (ON, CLIP, Method(), ServerSpec(6, weighting="examples"), "server.weighting=examples .* make up its weight"),
        (ON, CLIP, Method(), ServerSpec(6, 1 / 6), "needs at least 2 clients in every round"),
        (ON, GuardSpec(), Method(), SIX, "set guard.clip or secure_aggregation.range"),
    ],
)
def test_what_does_not_go_together(
    spec: SecureSpec, guard: GuardSpec, method: Method, server: ServerSpec, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        spec.check(guard, method, server)
    SecureSpec().check(guard, method, server)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bits": 1}, "bits=1 must lie in 2 .. 32"),
        ({"range": 0.0}, "range=0.0 must be positive"),
        ({"threshold": 0.4}, "two halves of the clients"),
        ({"neighbours": 5}, "neighbours=5 must be an even number"),
    ],
)
def test_values_out_of_range(changes: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SecureSpec(True, **changes)  # type: ignore[arg-type]


def test_bits_that_do_not_fit_the_bound_or_the_noise() -> None:
    with pytest.raises(ValueError, match=r"bits=8 is too coarse for 100000 numbers within guard.clip=2.0"):
        grid_of(SecureSpec(True, 8), CLIP, 10, 10, 100_000)
    with pytest.raises(ValueError, match=r"a client's share of it is 0\.04 .* set more secure_aggregation.bits"):
        grid_of(SecureSpec(True, 8), GuardSpec(clip=2.0, noise=1e-3), 10, 10, 50)
    with pytest.raises(ValueError, match="too large for sums of 64 bits"):
        grid_of(SecureSpec(True, 32), GuardSpec(clip=2.0, noise=1e6), 10**6, 2, 50)
