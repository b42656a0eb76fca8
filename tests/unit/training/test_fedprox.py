"""FedProx's term, in the space of the factors, against the oracle, whose objective has it."""

import pytest
import torch
from federation import Federation
from test_oracle import check
from workloads import conv, linear, make, mlp, shards, text

from fedrac.algorithm.method import Method
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

METHODS = {
    "Fed-RAC-LoRA": {},
    "FedProx": {"train": "full"},
    "AsymmLoRA": {"fresh": False, "merge": False},
    "FedIT": {"train": "both", "side": "right", "fresh": False, "merge": False},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factory", [mlp, conv, text], ids=lambda f: f.__name__)
def test_methods_and_layers(factory, method):
    """Clients of different sizes, several epochs, and a norm that is clipped after the term is added."""
    local = LocalSpec("adamw", 0.02, batch_size=5, epochs=2, l2=0.1, clip=0.5)
    check(Federation(make(factory), shards(), Method(**METHODS[method], prox=0.7), local, cohort=3), rounds=3)


def test_it_is_preconditioned_like_the_rest_of_the_objective():
    local = LocalSpec(lr=0.05, batch_size=5, precondition=True)
    check(Federation(make(mlp), shards(), Method(prox=0.7), local, cohort=3), rounds=3)


def test_a_strong_term_holds_clients_to_the_start():
    """Where a full-batch run converges, the gradient of the loss is ``-mu (F - F_0)``: so F - F_0 falls like 1/mu."""
    moved = []
    for prox in (10.0, 100.0):
        local = LocalSpec(lr=0.9 / prox, epochs=200, sampling="full")
        found = Federation(make(linear), shards((7,)), Method(train="full", prox=prox), local).round().factors
        moved.append(torch.cat([value.flatten() for value in found.values()]).norm())
    assert 5 < moved[0] / moved[1] < 10.5


def test_a_negative_one_is_refused():
    with pytest.raises(ValueError, match=r"method.prox=-1.0 must not be negative"):
        Method(prox=-1.0)
