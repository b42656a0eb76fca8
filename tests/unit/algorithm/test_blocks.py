import pytest
import torch
from torch import nn
from workloads import Tied

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import Block, find_blocks, plan_blocks, trained_shapes
from fedrac.algorithm.method import Method


def model():
    return nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Conv2d(4, 8, (3, 2), groups=2), nn.Linear(8, 3))


def ranks(model, spec, method=None):
    return {b.name: b.rank for b in plan_blocks(model, spec, method or Method())}


def test_every_layer_is_adapted_by_default():
    assert ranks(model(), AdaptSpec()) == {"0.weight": 1, "2.weight": 1, "3.weight": 1}


def test_last_pattern_that_matches_counts():
    layers = {"*": 2, "[03]": 1, "0": "frozen"}
    assert ranks(model(), AdaptSpec(layers)) == {"2.weight": 2, "3.weight": 1}


def test_layers_that_no_pattern_matches_are_frozen():
    assert ranks(model(), AdaptSpec({"2": 3})) == {"2.weight": 3}


def test_parameters_in_full():
    found = ranks(model(), AdaptSpec({"3": 2, "0": "full"}, full=["1.*", "*.bias"]))
    names = {"0.weight": None, "1.weight": None, "3.weight": 2}
    assert found == names | dict.fromkeys(["0.bias", "1.bias", "2.bias", "3.bias"])


def test_a_parameter_named_in_full_is_not_given_a_rank():
    assert ranks(model(), AdaptSpec({"*": 2}, full=["3.*"])) == {
        "0.weight": 2,
        "2.weight": 2,
        "3.weight": None,
        "3.bias": None,
    }


def test_blocks_come_in_order_of_the_models_parameters():
    blocks = plan_blocks(model(), AdaptSpec(full=["*.bias"]), Method())
    names = [name for name, _ in model().named_parameters()]
    assert [b.name for b in blocks] == [name for name in names if name in {b.name for b in blocks}]


@pytest.mark.parametrize(
    ("method", "rank", "expected"),
    [
        (Method(), 3, 3),
        (Method(), 4, None),  # left: m = 4 rows
        (Method(), 9, None),
        (Method(side="right"), 5, 5),
        (Method(side="right"), 6, None),  # right: n = 6 columns
        (Method(train="both"), 4, 4),
        (Method(train="both"), 5, 4),  # the product has no higher rank
        (Method(train="both", side="right"), 9, 4),
        (Method(train="full"), 1, None),
    ],
)
def test_ranks_that_a_matrix_can_have(method, rank, expected):
    (block,) = plan_blocks(nn.Linear(6, 4, bias=False), AdaptSpec({"*": rank}, alpha=2.0), method)
    assert block.rank == expected
    assert block.scale == (1.0 if expected is None else 2.0 / expected)


def test_a_convolution_is_a_matrix_of_its_kernels():
    (block,) = plan_blocks(model(), AdaptSpec({"2": 3}), Method())
    assert (block.m, block.n, block.shape) == (8, 2 * 3 * 2, (8, 2, 3, 2))
    assert [block.factor_shape(x) for x in "ABD"] == [(3, 12), (8, 3), (8, 2, 3, 2)]
    assert block.matrix(model()[2].weight).shape == (8, 12)


def test_trained_shapes_by_method():
    blocks = plan_blocks(model(), AdaptSpec({"2": 3}, full=["1.bias"]), Method())
    full = {"1.bias:D": (4,)}
    assert trained_shapes(blocks, Method()) == full | {"2.weight:A": (3, 12)}
    assert trained_shapes(blocks, Method(side="right")) == full | {"2.weight:B": (8, 3)}
    both = trained_shapes(blocks, Method(train="both"))
    assert both == full | {"2.weight:A": (3, 12), "2.weight:B": (8, 3)}


def test_tied_weights_are_one_block():
    (embed,) = plan_blocks(Tied(), AdaptSpec({"embed": 2}), Method())
    (head,) = plan_blocks(Tied(), AdaptSpec({"head": 2}), Method())
    assert embed == head
    assert embed.name == "embed.weight"
    assert embed.owners == (("embed", "weight"), ("head", "weight"))
    assert set(embed.names) == {"embed.weight", "head.weight"} <= set(Tied().state_dict())


def test_padding_row_of_an_embedding_unless_it_is_tied():
    (block,) = plan_blocks(nn.Embedding(5, 3, padding_idx=4), AdaptSpec(), Method())
    assert block.padding == 4
    tied = Tied()
    tied.embed.padding_idx = 4
    assert plan_blocks(tied, AdaptSpec({"head": 2}), Method())[0].padding is None
    assert all(b.padding is None for b in plan_blocks(model(), AdaptSpec(), Method()))


def test_found_blocks_equal_the_planned_ones():
    for planned in (
        plan_blocks(model(), AdaptSpec({"*": 2}, full=["*.bias"], alpha=3.0), Method()),
        plan_blocks(Tied(), AdaptSpec({"*": 2}), Method()),
        plan_blocks(nn.Embedding(5, 3, padding_idx=4), AdaptSpec(), Method()),
    ):
        rebuilt = Tied() if "head" in planned[0].owners[-1] else None
        rebuilt = rebuilt or (model() if len(planned) > 2 else nn.Embedding(5, 3, padding_idx=4))
        assert find_blocks(rebuilt, [b.description() for b in planned]) == planned


def test_another_model_than_the_servers():
    description = {"name": "9.weight", "rank": 1, "scale": 1.0}
    with pytest.raises(ValueError, match=r"the model here has no parameter '9.weight'"):
        find_blocks(model(), [description])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"layers": {"*": 0}}, r"rank 0 of layers '\*': give an integer >= 1"),
        ({"layers": {"*": True}}, "rank True of layers"),
        ({"layers": {"*": 2.0}}, "rank 2.0 of layers"),
        ({"layers": {"*": "half"}}, "rank 'half' of layers"),
        ({"alpha": 0.0}, "adapt.alpha=0.0 must be positive"),
        ({"alpha": float("nan")}, "adapt.alpha=nan must be positive"),
        ({"layers": {"*": 1, "4": 2}}, "adapt.layers: '4' matches nothing in the model; near: 0, 2, 3"),
        ({"full": ["2.bais"]}, "adapt.full: '2.bais' matches nothing in the model; near: 2.bias"),
        ({"layers": {"*": "frozen"}}, "nothing to train"),
    ],
)
def test_what_cannot_be_adapted(spec, message):
    with pytest.raises(ValueError, match=message):
        plan_blocks(model(), AdaptSpec(**spec), Method())


def test_model_without_a_layer_to_adapt():
    with pytest.raises(ValueError, match="no Linear, Conv2d or Embedding layer to adapt; its modules are: GRU"):
        plan_blocks(nn.GRU(3, 4), AdaptSpec(), Method())
    assert ranks(nn.GRU(3, 4), AdaptSpec(full=["bias*"])) == {"bias_ih_l0": None, "bias_hh_l0": None}


def test_embedding_with_max_norm():
    embedding = nn.Embedding(5, 3, max_norm=1.0)
    with pytest.raises(ValueError, match="an embedding with max_norm is not linear in its weight; freeze it"):
        plan_blocks(nn.Sequential(embedding), AdaptSpec(), Method())
    two = nn.Sequential(embedding, nn.Linear(3, 3))
    assert ranks(two, AdaptSpec({"*": 1, "0": "frozen"})) == {"1.weight": 1}


def test_matrix_is_a_view():
    w = torch.zeros(4, 3, 2)
    Block("w", (4, 3, 2), 1, 1.0, ()).matrix(w)[1, 2] = 5.0
    assert w[1, 1, 0] == 5.0
