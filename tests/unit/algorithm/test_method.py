import pytest

from fedrac.algorithm.method import Method


@pytest.mark.parametrize(
    ("method", "letters"),
    [
        (Method(), ("A",)),
        (Method(side="right"), ("B",)),
        (Method(train="both"), ("A", "B")),
        (Method(train="both", side="right"), ("A", "B")),
        (Method(train="full"), ("D",)),
    ],
)
def test_trained_letters(method, letters):
    assert method.trained_letters(full=False) == letters
    assert method.trained_letters(full=True) == ("D",)


def test_drawn_letter_is_the_frozen_one():
    assert Method().drawn_letter == "B"
    assert Method(side="right").drawn_letter == "A"


def test_sketch_is_drawn_every_round_or_once():
    assert [Method().sketch_round(t) for t in (1, 2, 9)] == [1, 2, 9]
    assert [Method(fresh=False).sketch_round(t) for t in (1, 2, 9)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"train": "all"}, "method.train='all' is unknown: choose one of factor, both, full"),
        ({"side": "top"}, "method.side='top' is unknown: choose one of left, right"),
        ({"average": "median"}, "method.average='median' is unknown: choose one of factors, products"),
        ({"average": "products"}, "method.train=factor is the same as averaging factors.*set method.average=factors"),
        ({"train": "full", "fresh": False, "merge": False}, "no factors to carry: set method.merge=true"),
        ({"merge": False}, "method.fresh=true needs method.merge=true"),
    ],
)
def test_contradictions(choices, message):
    with pytest.raises(ValueError, match=message):
        Method(**choices)
