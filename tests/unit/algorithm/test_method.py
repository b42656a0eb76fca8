from dataclasses import replace

import pytest

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.method import Method

BLOCK = Block("w", (6, 5), 2, 1.0, (("", "w"),))


@pytest.mark.parametrize(
    ("method", "letters"),
    [
        (Method(), ("A",)),
        (Method(side="right"), ("B",)),
        (Method(train="both"), ("A", "B")),
        (Method(train="both", side="right"), ("A", "B")),
        (Method(train="full"), ("D",)),
        (Method(side="both"), ("Z",)),
    ],
)
def test_trained_letters(method, letters):
    assert BLOCK.trained_letters(method.at(1)) == letters
    assert replace(BLOCK, rank=None).trained_letters(method.at(1)) == ("D",)


def test_drawn_letters_are_the_frozen_ones():
    assert BLOCK.drawn_letters(Method().at(1)) == ("B",)
    assert BLOCK.drawn_letters(Method(side="right").at(1)) == ("A",)
    assert BLOCK.drawn_letters(Method(side="both").at(1)) == ("A", "B")
    assert replace(BLOCK, only="left").drawn_letters(Method(side="both").at(1)) == ("B",)
    assert replace(BLOCK, rank=None).drawn_letters(Method(side="both").at(1)) == ()


def test_sketch_is_drawn_every_round_or_once():
    assert [Method().at(t).sketch_round for t in (1, 2, 9)] == [1, 2, 9]
    assert [Method(fresh=False).at(t).sketch_round for t in (1, 2, 9)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"train": "all"}, "method.train='all' is unknown: choose one of factor, both, full"),
        (
            {"train": "both", "side": "alternate", "fresh": False, "merge": False},
            "needs method.merge=true, or method.train",
        ),
        ({"side": "top"}, "method.side='top' is unknown: choose one of left, right, alternate"),
        ({"average": "median"}, "method.average='median' is unknown: choose one of factors, products"),
        ({"average": "products"}, "method.train=factor is the same as averaging factors.*set method.average=factors"),
        ({"train": "full", "fresh": False, "merge": False}, "no factors to carry: set method.merge=true"),
        ({"merge": False}, "method.fresh=true needs method.merge=true"),
        ({"side": "both", "train": "both"}, "method.train=both has nothing frozen, set factor"),
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
