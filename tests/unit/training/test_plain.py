"""Gradients that are written out are those of automatic differentiation, and other networks are left to it."""

from dataclasses import replace

import pytest
import torch
from federation import Federation
from torch import nn
from torch.nn import functional as F
from workloads import dense, make, normed, shards

from fedrac.algorithm import basis
from fedrac.algorithm.method import Method
from fedrac.models.dense import Dense
from fedrac.training.optimizer import LocalSpec
from fedrac.training.plain import is_fixed, layers_of
from fedrac.training.way import Layer

METHODS = {
    "left": Method(),
    "right": Method(side="right"),
    "both factors": Method(train="both", fresh=False, merge=False),
    "in full": Method(train="full"),
    "two-sided": Method(side="both"),
}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 5)

    def forward(self, x):
        return x + self.one(x)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 5)

    def forward(self, x):
        return self.one(self.one(x))


class ByValue(Residual):
    def forward(self, x):
        return self.one(x) if x.sum() > 0 else F.relu(self.one(x))


class Skipping(nn.Module):
    """The second layer takes what the first was given, not what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        self.one(x)
        return self.two(x)


def test_layers_are_those_of_the_forward_pass_in_order():
    names = ("layers.0.weight", "layers.0.bias"), ("layers.1.weight", "layers.1.bias")
    found = layers_of(Dense([6, 4, 3]), torch.rand(2, 1, 2, 3))
    assert found == (Layer("linear", *names[0]), Layer("relu"), Layer("linear", *names[1]))
    stack = nn.Sequential(nn.Flatten(), nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Identity(), nn.Sigmoid())
    assert layers_of(stack, torch.rand(2, 6)) == (Layer("linear", "1.weight"), Layer("tanh"), Layer("sigmoid"))
    assert layers_of(nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True)), torch.rand(2, 6))[1] == Layer("relu")
    normed = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4), nn.LayerNorm(4, 0.5, elementwise_affine=False))
    found = layers_of(normed, torch.rand(2, 6))
    assert found[0] == Layer("norm", "0.weight", "0.bias", 1e-5) and found[2] == Layer("norm", eps=0.5)


@pytest.mark.parametrize(
    "model",
    [
        Residual(),
        Twice(),
        ByValue(),
        Skipping(),
        nn.Sequential(nn.Linear(5, 5), nn.GELU()),
        nn.Sequential(nn.Linear(5, 5), nn.Dropout()),
        nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)),
        nn.Sequential(nn.Linear(5, 5), nn.Unflatten(1, (1, 5)), nn.LayerNorm((1, 5))),
        nn.Linear(5, 5).bfloat16(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_networks_are_not_taken_for_such(model):
    assert layers_of(model, torch.rand(3, 5, dtype=next(model.parameters()).dtype)) == ()


def test_ids_and_sequences_are_not_taken_for_rows():
    assert layers_of(nn.Linear(5, 5), torch.rand(2, 3, 5)) == ()
    assert layers_of(nn.Sequential(nn.Embedding(9, 5)), torch.zeros(2, 5, dtype=torch.long)) == ()


def test_a_model_of_known_modules_stays_what_it_is_unless_something_is_hooked_on():
    assert is_fixed(Dense([6, 4, 3])) and is_fixed(nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh()))
    assert not is_fixed(ByValue()) and not is_fixed(nn.Sequential(ByValue()))
    for hook in ("register_forward_hook", "register_forward_pre_hook"):
        model = Dense([6, 4, 3])
        getattr(model.layers[1], hook)(lambda *_: None)
        assert not is_fixed(model)
    model = Dense([6, 4, 3])
    model.layers[0].forward = lambda x: x
    assert not is_fixed(model)


@pytest.mark.parametrize("local", [LocalSpec("adamw", 0.02, batch_size=5), LocalSpec(lr=0.05, batch_size=5, clip=0.1)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", [dense, normed])
def test_a_run_is_that_of_automatic_differentiation(network, method, local):
    """Bit for bit: the products are the same ones."""
    work, choices = make(network), {}
    if method == "two-sided":
        wide = {n: p.shape[1] for n, p in work.model.named_parameters() if p.ndim > 1 and p.shape[1] > 3}
        choices = {
            "columns": 3,
            "fixed": 2,
            "basis": {f"{n}:A": basis.random(4, n, size, 2) for n, size in wide.items()},
        }
    own, other = (Federation(make(network), shards(), METHODS[method], local, cohort=3, **choices) for _ in range(2))
    own.round()
    other.round()
    ((key, way),) = own.ways.found.items()
    assert way.plain
    other.ways.found[key] = replace(way, plain=())
    first = own.state
    for federation in (own, other):
        federation.state = first
        for _ in range(3):
            federation.round()
    for name, value in other.weights().items():
        assert torch.equal(own.weights()[name], value), name


def test_nothing_of_a_round_is_held_when_it_has_ended():
    """A host swaps the weights' memory in every round, and there are layers for many sizes."""
    work = make(normed)
    federation = Federation(work, shards(), cohort=4)
    federation.round()
    (network,) = federation.ways.networks.values()
    held = [value for layer in network._layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    assert held == [] and network._layers and federation.ways.found
    own = {parameter.untyped_storage().data_ptr() for parameter in work.model.parameters()}
    assert own.isdisjoint(value.untyped_storage().data_ptr() for value in network._memory._held.values())


def test_a_loss_may_be_a_part_of_the_outputs():
    """The memory of the outputs is written over by the next step."""
    work = make(dense)
    federations = [
        Federation(
            replace(work, loss=lambda outputs, targets, copied=copied: copied(outputs[:, 0])), shards(), cohort=3
        )
        for copied in (torch.clone, lambda x: x)
    ]
    one, other = (federation.train(range(3)).losses for federation in federations)
    assert torch.equal(one, other)
