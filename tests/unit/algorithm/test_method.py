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
    assert method.at(1).trained_letters(full=False) == letters
    assert method.at(1).trained_letters(full=True) == ("D",)


def test_drawn_letter_is_the_frozen_one():
    assert Method().at(1).drawn_letter == "B"
    assert Method(side="right").at(1).drawn_letter == "A"


def test_sketch_is_drawn_every_round_or_once():
    assert [Method().at(t).sketch_round for t in (1, 2, 9)] == [1, 2, 9]
    assert [Method(fresh=False).at(t).sketch_round for t in (1, 2, 9)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"train": "all"}, "method.train='all' is unknown: choose one of factor, both, full"),
        ({"side": "alternate", "fresh": False, "merge": False}, "method.side=alternate needs method.merge=true"),
        ({"side": "top"}, "method.side='top' is unknown: choose one of left, right, alternate"),
        ({"average": "median"}, "method.average='median' is unknown: choose one of factors, products"),
        ({"average": "products"}, "method.train=factor is the same as averaging factors.*set method.average=factors"),
        ({"train": "full", "fresh": False, "merge": False}, "no factors to carry: set method.merge=true"),
        ({"merge": False}, "method.fresh=true needs method.merge=true"),
    ],
)
def test_contradictions(choices, message):
    with pytest.raises(ValueError, match=message):
        Method(**choices)


def test_sides_alternate_from_the_left():
    method = Method(side="alternate")
    assert [method.at(t).side for t in (1, 2, 3, 8)] == ["left", "right", "left", "right"]
    assert method.sides == ("left", "right") and Method(side="right").sides == ("right",)
    assert (method.period, Method().period) == (2, 1)
