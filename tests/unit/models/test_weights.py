import pytest
import torch
from torch import nn

from fedrac.models.weights import of, use


def values(model, number):
    return {k: torch.full_like(v, number) for k, v in model.state_dict().items()}


def test_a_model_shares_the_memory_of_its_weights_and_copies_its_buffers():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    weights = values(model, 2)
    use(model, weights)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == weights[name].data_ptr()
    model(torch.randn(4, 3))  # in training mode it moves its running statistics
    assert all(bool((v == 2).all()) for v in weights.values())


@pytest.mark.parametrize("where", ["a file", "a transposed matrix"])
def test_what_lies_otherwise_in_memory_is_copied_to_where_a_new_tensor_would_be(where):
    """Products round by where their matrices lie; so a run that was read from a file would go on with other bits."""
    model, owner = nn.Linear(3, 3), {"weight": torch.ones(3, 3), "bias": torch.ones(3)}
    use(model, owner)
    of_file = torch.arange(10.0)[1:].view(3, 3)
    read = {"weight": of_file if where == "a file" else torch.arange(9.0).view(3, 3).T, "bias": torch.zeros(3)}
    use(model, read)
    assert torch.equal(model.weight, read["weight"]) and bool((owner["weight"] == 1).all())
    assert model.weight.is_contiguous() and model.weight.data_ptr() % 64 == 0
    place, version = model.weight.data_ptr(), model.weight._version
    use(model, read)
    assert (model.weight.data_ptr(), model.weight._version) == (place, version)  # not once more
    use(model, owner)
    use(model, read)
    assert torch.equal(model.weight, read["weight"]) and bool((owner["weight"] == 1).all())


def test_another_dtype_is_copied():
    model = nn.Linear(3, 3).to(torch.bfloat16)
    weights = {k: v.float() for k, v in values(model, 3).items()}
    use(model, weights)
    assert model.weight.dtype == torch.bfloat16 and bool((model.weight == 3).all())


def test_only_what_has_changed_is_copied():
    """Where a model has its weights in another dtype, or on another device: those of frozen layers do not move."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).to(torch.bfloat16).requires_grad_(False)
    weights = {k: v.float() for k, v in values(model, 3).items()}
    use(model, weights)
    places = {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()}
    use(model, weights := {**weights, "1.weight": torch.full((3, 3), 4.0)})
    changed = {name for name, p in model.named_parameters() if (p.data_ptr(), p._version) != places[name]}
    assert changed == {"1.weight"} and model[1].weight.data_ptr() == places["1.weight"][0]
    assert bool((model[1].weight == 4).all()) and bool((model[0].weight == 3).all())


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.add_(1.0),
        lambda p: p.copy_(torch.ones(3, 3)),
        lambda p: setattr(p, "data", torch.ones(3, 3, dtype=p.dtype)),
    ],
    ids=["add", "copy", "other memory"],
)
def test_what_somebody_has_written_into_is_copied_again(write):
    model = nn.Linear(3, 3).to(torch.bfloat16).requires_grad_(False)
    weights = {k: v.float() for k, v in values(model, 3).items()}
    use(model, weights)
    write(model.weight)
    use(model, weights)
    assert bool((model.weight == 3).all())


def test_an_embedding_that_bounds_its_rows_does_not_change_whose_weights_it_has():
    model = nn.Embedding(4, 3, max_norm=1.0)
    weights = values(model, 5)
    use(model, weights)
    model(torch.arange(4))
    assert bool((weights["weight"] == 5).all()) and bool((model.weight < 1).all())


def test_tied_weights_stay_tied():
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    use(model, values(model, 7))
    assert model["b"].weight is model["a"].weight and bool((model["b"].weight == 7).all())


@pytest.mark.parametrize("change", [lambda w: w.pop("bias"), lambda w: w.update(weight=torch.zeros(2, 2))])
def test_other_names_or_shapes_are_refused(change):
    model = nn.Linear(3, 3)
    weights = values(model, 1)
    change(weights)
    with pytest.raises(RuntimeError, match="Error"):
        use(model, weights)


def test_of_a_model_what_it_may_write_into_is_copied():
    model = nn.Sequential(nn.Embedding(4, 3, max_norm=0.1), nn.Linear(3, 3), nn.BatchNorm1d(3))
    weights = of(model)
    before = {k: v.clone() for k, v in weights.items()}
    model(torch.arange(4))
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(v, before[k]) for k, v in weights.items())
    assert weights["1.weight"].data_ptr() == model[1].weight.data_ptr()
