import pytest
import torch
from torch import nn
from workloads import Tied

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import Block, described, find_blocks, plan_blocks, trained_shapes
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.sketch import SketchSpec


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
    assert trained_shapes(blocks, Method().at(1)) == full | {"2.weight:A": (3, 12)}
    assert trained_shapes(blocks, Method(side="right").at(1)) == full | {"2.weight:B": (8, 3)}
    both = trained_shapes(blocks, Method(train="both").at(1))
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
    with pytest.raises(ValueError, match="the model has no layer with a weight to adapt; its modules are: LayerNorm"):
        plan_blocks(nn.LayerNorm(4), AdaptSpec(), Method())
    assert ranks(nn.LayerNorm(4), AdaptSpec(full=["bias*"])) == {"bias": None}


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.GRU(9, 8, bidirectional=True), [f"weight_{x}_l0{d}" for d in ("", "_reverse") for x in ("ih", "hh")]),
        (nn.LSTM(9, 8, proj_size=6), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
        (nn.RNNCell(9, 8), ["weight_ih", "weight_hh"]),
        (nn.MultiheadAttention(8, 2), ["in_proj_weight", "out_proj.weight"]),
        (nn.MultiheadAttention(8, 2, kdim=9, vdim=7), [*(f"{x}_proj_weight" for x in "qkv"), "out_proj.weight"]),
        (nn.Conv1d(8, 9, 3), ["weight"]),
        (nn.ConvTranspose3d(8, 9, 3), ["weight"]),
        (nn.Bilinear(8, 9, 7), ["weight"]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_weights_of_torchs_layers(layer, names):
    assert ranks(nn.ModuleDict({"x": layer}), AdaptSpec({"*": 2})) == {f"x.{name}": 2 for name in names}


class Experts(nn.Module):
    """Four of them in one tensor, and biases."""

    def __init__(self):
        super().__init__()
        self.up, self.up_bias = nn.Parameter(torch.zeros(4, 7, 6)), nn.Parameter(torch.zeros(4, 7))


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(4))


def test_fused_experts_and_their_router_are_linear_layers():
    mixture = nn.ModuleDict({"experts": Experts(), "router": Router(), "conv": nn.Conv2d(3, 4, 3)})
    assert ranks(mixture, AdaptSpec({"all-linear": 2})) == {"experts.up": 2, "router.weight": 2}
    (experts,) = plan_blocks(mixture, AdaptSpec({"experts": 2}), Method())
    assert (experts.m, experts.n, experts.stack) == (7, 6, 4)
    assert [experts.factor_shape(x) for x in "ABD"] == [(4, 2, 6), (4, 7, 2), (4, 7, 6)]
    assert find_blocks(mixture, [experts.description()]) == (experts,)
    assert ranks(mixture, AdaptSpec({"experts": 7})) == {"experts.up": None}  # their full rank, not that of the tensor


def test_every_expert_has_a_sketch_of_its_own():
    (block,) = plan_blocks(nn.ModuleDict({"experts": Experts()}), AdaptSpec({"*": 2}), Method())
    sketches = draw_sketches([block], Method(), SketchSpec("haar"), 1).values[block.name]
    assert sketches.shape == (4, 7, 2)
    eye = torch.eye(2, dtype=torch.float64)
    for e, sketch in enumerate(sketches):
        torch.testing.assert_close(sketch.T @ sketch, eye)
        assert all(not torch.allclose(sketch, other) for other in sketches[:e])


@pytest.mark.parametrize(
    "computed",
    [
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)),
        nn.utils.parametrizations.weight_norm(nn.GRU(6, 4), "weight_hh_l0"),
    ],
    ids=["weight_norm", "spectral_norm", "of a GRU"],
)
@pytest.mark.parametrize("pattern", ["*", "x"])
def test_a_weight_that_is_computed_has_no_low_rank(computed, pattern):
    model = nn.ModuleDict({"x": computed, "y": nn.Linear(6, 4)})
    with pytest.raises(
        ValueError, match=r"layer 'x': its weight.* is computed from other parameters .*'x: full'|x: full"
    ):
        plan_blocks(model, AdaptSpec({pattern: 1}), Method())
    assert ranks(model, AdaptSpec({"*": 1, "x": "frozen"})) == {"y.weight": 1}
    originals = {n for n, _ in model.named_parameters() if "parametrizations" in n}
    found = ranks(model, AdaptSpec({"x": "full"}))
    assert originals <= set(found)
    assert set(found.values()) == {None}
    assert set(ranks(model, AdaptSpec({"*": 1}), Method(train="full"))) == set(found) | {"y.weight"}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_the_older_weight_norm():
    model = nn.ModuleDict({"x": nn.utils.weight_norm(nn.Linear(6, 4))})
    with pytest.raises(ValueError, match="layer 'x': its weight is computed from other parameters"):
        plan_blocks(model, AdaptSpec(), Method())
    assert ranks(model, AdaptSpec({"x": "full"})) == {"x.weight_g": None, "x.weight_v": None}


def test_what_the_model_keeps_from_training_is_left_alone():
    kept = model()
    kept[0].requires_grad_(False)
    assert ranks(kept, AdaptSpec({"*": 1}, full=["*.bias"])) == {
        "1.bias": None,
        "2.weight": 1,
        "2.bias": None,
        "3.weight": 1,
        "3.bias": None,
    }
    message = r"'0.*' names nothing but parameters that the model keeps from training \(requires_grad=False\)"
    with pytest.raises(ValueError, match=f"adapt.layers: {message}"):
        plan_blocks(kept, AdaptSpec({"*": 1, "0": 2}), Method())
    with pytest.raises(ValueError, match=f"adapt.full: {message}"):
        plan_blocks(kept, AdaptSpec({"*": 1}, full=["0.weight"]), Method())
    assert "2.weight" in ranks(kept, AdaptSpec({"*": 1, "0": "frozen"}))


def test_a_layer_that_cannot_be_adapted_is_named():
    with pytest.raises(ValueError, match=r"'1' names '1', a LayerNorm, .* 'adapt.full=\[1.\*\]'"):
        plan_blocks(model(), AdaptSpec({"1": 1}), Method())


def test_all_linear_that_reaches_nothing():
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    with pytest.raises(ValueError, match=r"no linear layer outside its head; it has others \(Conv2d\), .*\{\*: RANK\}"):
        plan_blocks(convolutions, AdaptSpec({"all-linear": 1}), Method())
    headed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 3))
    headed.heads = ("1",)
    with pytest.raises(ValueError, match="all-linear matches nothing"):
        plan_blocks(headed, AdaptSpec({"all-linear": 1}, full=["head"]), Method())


def test_what_is_trained_and_what_is_not_in_one_line():
    some = model()
    some[2].bias.requires_grad_(False)
    blocks = plan_blocks(some, AdaptSpec({"*": 1, "3": "frozen"}), Method())
    trained, all_ = 24 + 96, sum(p.numel() for p in some.parameters())
    wished, cannot = 24 + 3 + 8, all_ - trained - 35
    assert described(some, AdaptSpec({"*": 1, "3": "frozen"}), blocks) == (
        f"{trained} of {all_} parameters are trained; {wished} are frozen as adapt or the model says, "
        f"{cannot} because they have no low rank (adapt.full trains them)"
    )


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
