from pathlib import Path

import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from torch import nn

from fedrac.models import build, cnn, linear, mlp

CONF = Path(__file__).parents[3] / "conf"
MLP = {"_target_": "fedrac.models.mlp", "inputs": 784, "hidden": [64, 64], "outputs": 5, "dropout": 0.0}


def no_module():
    return 3


def test_the_default_network():
    model = mlp()
    assert {name: tuple(value.shape) for name, value in model.named_parameters()} == {
        "layers.0.weight": (64, 784),
        "layers.0.bias": (64,),
        "layers.1.weight": (64, 64),
        "layers.1.bias": (64,),
        "layers.2.weight": (5, 64),
        "layers.2.bias": (5,),
    }
    x = torch.linspace(-1, 1, 3 * 784).reshape(3, 1, 28, 28)
    hidden = x.reshape(3, 784)
    for layer in model.layers[:2]:
        hidden = torch.relu(hidden @ layer.weight.T + layer.bias)
    expected = hidden @ model.layers[2].weight.T + model.layers[2].bias
    torch.testing.assert_close(model(x), expected)


def test_a_linear_model_may_start_at_zero():
    assert not any(parameter.any() for parameter in linear(3, 2, zero=True).parameters())
    assert all(parameter.any() for parameter in linear(3, 2).parameters())


def test_linear_is_one_layer():
    model = linear(3, 2, bias=False)
    assert [name for name, _ in model.named_parameters()] == ["layers.0.weight"]
    x = torch.eye(3)
    torch.testing.assert_close(model(x), model.layers[0].weight.T)


def test_dropout_acts_in_training_only():
    model, x = mlp(4, [32], 2, dropout=0.5), torch.ones(2, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_the_convolutional_network():
    model = cnn(channels=3, size=9, filters=[4, 8], outputs=6)
    assert model(torch.zeros(2, 3, 9, 9)).shape == (2, 6)
    assert [name for name, _ in model.named_parameters() if "weight" in name] == [
        "convolutions.0.weight",
        "convolutions.1.weight",
        "head.weight",
    ]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mlp()(torch.zeros(2, 8, 8)), "example has 64 entries but the model takes 784: set model.inputs=64"),
        (lambda: cnn()(torch.zeros(2, 3, 28, 28)), r"shape \(3, 28, 28\) but the model takes \(1, 28, 28\): set model"),
        (lambda: mlp(hidden=[0]), "a layer of width 0"),
        (lambda: cnn(size=3, filters=[2, 2]), "model.size=3 cannot be halved 2 times"),
    ],
)
def test_sizes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_seed_decides_the_weights_and_nothing_else_does():
    first = build(MLP, 1)
    torch.rand(3)
    assert same(first, build(MLP, 1)) and not same(first, build(MLP, 2))
    bound = 784**-0.5  # torch's own initialisation
    assert 0.95 * bound < first.layers[0].weight.abs().max() <= bound


def test_torchs_generator_is_left_alone():
    before = torch.random.get_rng_state()
    build(MLP, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_any_class_by_its_import_path():
    assert isinstance(build({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}, 0), nn.Linear)


BAD = {
    "typo": ({**MLP, "_target_": "fedrac.models.mpl"}, r"model\._target_=fedrac\.models\.mpl cannot be used"),
    "module": ({"_target_": "nowhere.net"}, "nowhere.net cannot be used .*PYTHONPATH"),
    "argument": ({**MLP, "hiden": 3}, r"given inputs, .*'hiden'.*; it takes \(inputs: int = 784"),
    "type": ({**MLP, "hidden": 3}, r"model\._target_=fedrac\.models\.mlp was given"),
    "result": ({"_target_": f"{__name__}.no_module"}, "returned a int: it must return a torch.nn.Module"),
    "value": ({**MLP, "dropout": 2.0}, "dropout probability has to be between 0 and 1"),
}


@pytest.mark.parametrize("spec, message", BAD.values(), ids=BAD)
def test_a_bad_spec_names_the_mend(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec, 0)


def spelled_out(path):
    """The group's own entries; an option can extend another and set more than its group."""
    spec = OmegaConf.load(path)
    for base in spec.pop("defaults", []):
        spec = OmegaConf.merge(OmegaConf.load(path.with_name(f"{base}.yaml")), spec)
    return spec.get(path.parent.name, spec)


@pytest.mark.parametrize(
    "path", sorted([*CONF.glob("data/*.yaml"), *CONF.glob("model/*.yaml")]), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_the_configuration_spells_out_every_argument(path):
    spec = spelled_out(path)
    if path.stem == "custom":
        assert OmegaConf.is_missing(spec, "_target_")
        return
    function = get_method(spec.pop("_target_"))
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    assert set(spec) == set(names) - {"partial"}  # that one is for nodes with data of their own alone


@pytest.mark.parametrize("name", ["mlp", "linear", "cnn"])
def test_the_configured_models_take_the_default_data(name):
    model = build(OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml")), 0)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 5)
