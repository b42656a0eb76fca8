import math

import pytest
import torch
from scipy import stats

from fedrac.algorithm.sketch import SketchSpec, digest, gram_inverse, orthonormal, projection
from fedrac.algorithm.streams import Stream

LAWS = ("popcount", "gaussian", "rademacher", "haar", "coordinate")
every_law = pytest.mark.parametrize("law", LAWS)
both_sides = pytest.mark.parametrize("side", ["left", "right"])


@every_law
@both_sides
def test_shape_and_dtype(law, side):
    sketch = SketchSpec(law).draw(side, 1, "w", 7, 4, 3)
    assert sketch.shape == ((7, 3) if side == "left" else (3, 4))
    assert sketch.dtype == torch.float64


def test_entries_follow_their_law():
    gaussian, popcount, rademacher = (
        SketchSpec(law).draw("left", 1, "w", 100, 9, 60).flatten() for law in ("gaussian", "popcount", "rademacher")
    )
    assert stats.kstest(gaussian, "norm").pvalue > 0.001
    binomial = stats.binom(64, 0.5)  # popcount of a random word
    counts = torch.bincount((popcount * 4 + 32).long(), minlength=65)
    assert counts.sum() == len(popcount)
    likely = [k for k in range(65) if len(popcount) * binomial.pmf(k) > 5]
    expected = torch.tensor([binomial.pmf(k) for k in likely])
    observed = counts[likely].double()
    assert stats.chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 0.001
    assert set(rademacher.tolist()) == {-1.0, 1.0}
    assert abs(rademacher.mean()) < 4 / len(rademacher) ** 0.5


@pytest.mark.parametrize("law", ["popcount", "rademacher", "gaussian", "coordinate"])
def test_entries_survive_a_cast_to_float32(law):
    sketch = SketchSpec(law).draw("left", 1, "w", 50, 9, 20)
    assert torch.equal(sketch.float().double(), sketch)


def test_exact_laws_survive_a_cast_to_bfloat16_and_half():
    for law in ("popcount", "rademacher", "coordinate"):
        sketch = SketchSpec(law).draw("left", 1, "w", 50, 9, 20)
        assert torch.equal(sketch.bfloat16().double(), sketch)
        assert torch.equal(sketch.half().double(), sketch)


@pytest.mark.parametrize("law", ["haar", "coordinate"])
@both_sides
@pytest.mark.parametrize("rank", [1, 4, 6])
def test_orthonormal_laws(law, side, rank):
    m, n = (6, 11) if side == "left" else (11, 6)
    sketch = SketchSpec(law, 2).draw(side, 1, "w", m, n, rank)
    gram = sketch.T @ sketch if side == "left" else sketch @ sketch.T
    torch.testing.assert_close(gram, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-12)


def test_coordinate_law_picks_unit_vectors():
    sketch = SketchSpec("coordinate", 1).draw("right", 1, "w", 3, 8, 5)
    assert (sketch.sum(1) == 1).all()
    assert (sketch.sum(0) <= 1).all()
    assert set(sketch.flatten().tolist()) == {0.0, 1.0}


def test_rank_above_the_size_of_the_layer():
    with pytest.raises(ValueError, match="cannot draw 4 distinct integers below 3"):
        SketchSpec("coordinate").draw("left", 1, "w", 3, 5, 4)


def test_orthonormal_basis_of_an_ill_conditioned_matrix():
    b = torch.vander(torch.linspace(0.1, 1, 12, dtype=torch.float64), 6)  # condition number 1e5
    q = orthonormal(b)
    torch.testing.assert_close(q.T @ q, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(q @ (q.T @ b), b, rtol=0, atol=1e-10)
    # The one factor with a positive diagonal: no sign is free.
    upper = q.T @ b
    assert (upper.diagonal() > 0).all()
    torch.testing.assert_close(upper.tril(-1), torch.zeros(6, 6, dtype=torch.float64), rtol=0, atol=1e-9)


@both_sides
@every_law
def test_gram_inverse(law, side):
    sketch = SketchSpec(law, 3).draw(side, 1, "w", 9, 7, 3)
    b = sketch if side == "left" else sketch.T
    inverse = gram_inverse(sketch, side)
    torch.testing.assert_close(inverse @ (b.T @ b), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    h = b @ inverse @ b.T
    torch.testing.assert_close(h, projection(sketch, side), rtol=0, atol=1e-12)


@both_sides
def test_sketch_that_lost_rank_still_gives_a_projection(side):
    b = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    sketch = b if side == "left" else b.T
    h = projection(sketch, side)
    torch.testing.assert_close(h, b[:, :1] @ b[:, :1].T / 3, rtol=0, atol=1e-12)
    torch.testing.assert_close(b @ gram_inverse(sketch, side) @ b.T, h, rtol=0, atol=1e-12)


@both_sides
def test_second_moment_of_haar_projections(side):
    """``E[H S H] = (a + b) S + b tr(S) I`` within 4 standard errors."""
    m, r, draws = 5, 2, 3000
    a, b = _second_moment(m, r)
    g = torch.randn(m, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = g + g.T
    spec = SketchSpec("haar", 1)
    h = torch.stack([projection(spec.draw(side, t, "w", m, m, r), side) for t in range(draws)])
    samples = h @ s @ h
    expected = (a + b) * s + b * s.trace() * torch.eye(m, dtype=torch.float64)
    assert ((samples.mean(0) - expected).abs() <= 4 * samples.std(0) / draws**0.5).all()


def _second_moment(m: int, r: int) -> tuple[float, float]:
    b = r * (m - r) / (m * (m - 1) * (m + 2))
    return r / m - (m + 1) * b, b


def test_digest_sees_every_bit_and_name_but_no_order():
    one, two = torch.ones(2, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    expected = digest({"a": one, "b": two})
    assert digest({"b": two, "a": one}) == expected
    assert digest({"a": one.T.contiguous().T, "b": two}) == expected
    nudged = one.clone()
    nudged[1, 2] = math.nextafter(1.0, 2.0)
    for other in ({"a": nudged, "b": two}, {"a": one, "c": two}, {"a": one}, {"a": one, "b": -two}):
        assert digest(other) != expected


def test_raw_entries_do_not_depend_on_torch():
    torch.manual_seed(0)
    first = SketchSpec("gaussian").raw("left", 1, "w", 8, 8, 2)
    torch.manual_seed(1)
    assert torch.equal(SketchSpec("gaussian").raw("left", 1, "w", 8, 8, 2), first)


def test_gaussian_entries_have_no_infinity():
    class Extremes(Stream):
        def words(self, count):
            words = super().words(count)
            words[0], words[-1] = 0, 2**64 - 1
            return words

    sketch = SketchSpec("gaussian")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrac.algorithm.sketch.Stream", Extremes)
        entries = sketch.raw("left", 1, "w", 4, 4, 4)
    assert entries[0, 0] == -entries[-1, -1]
    assert 8 < entries[-1, -1] < 9


def test_unknown_law():
    with pytest.raises(ValueError, match="sketch law 'sparse' is unknown: choose one of popcount, gaussian"):
        SketchSpec("sparse")
