"""Every client of a cohort gets what plain PyTorch gives it alone, whatever the model is made of."""

import any_models
import pytest
import torch
from any_models import COMPUTED, IMAGES, MIXING, ROWS, SERIES, TEXTS
from federation import Federation
from test_oracle import check
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from workloads import Workload

from fedrac.algorithm.method import Method
from fedrac.algorithm.streams import Stream
from fedrac.training.optimizer import LocalSpec

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

SIZES = (1, 7, 4, 8)
SHARDS = torch.arange(ROWS).split(SIZES)
TOGETHER = (*IMAGES, *SERIES, *TEXTS)
METHODS = {"left": Method(), "right": Method(side="right"), "both": Method(train="both"), "full": Method(train="full")}
LOCALS = {
    "sgd": LocalSpec(lr=0.1, batch_size=3, epochs=2),
    "everything": LocalSpec(lr=0.05, batch_size=3, momentum=0.5, weight_decay=0.1, l2=0.1, clip=0.5),
}


def entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def federation(name, method, local=LOCALS["sgd"], full=()):
    work = Workload(any_models.make(name), any_models.inputs(name), any_models.targets(), entropy, full)
    return Federation(work, SHARDS, method, local, {"*": 2})


def batches(client, local, seed=0, round_=1):
    rows = SHARDS[client]
    stream = Stream(seed, "order", round_, client)
    for _ in range(local.epochs):
        yield from rows[torch.from_numpy(stream.permutation(len(rows)))].split(min(local.batch_size, len(rows)))


def trained_alone(name, f, client):
    """The client's model after plain training: a model of its own, torch.optim.SGD, its own mini-batches."""
    model = any_models.make(name)
    modes = {m: m.training for m in model.modules()}
    model.train()
    for m in modes:
        if isinstance(m, nn.BatchNorm2d | parametrize.ParametrizationList):
            m.eval()
    names = {b.name for b in f.blocks}
    parameters = [p for n, p in model.named_parameters() if n in names]
    optimizer = torch.optim.SGD(parameters, f.local.lr)
    for rows in batches(client, f.local):
        optimizer.zero_grad()
        entropy(model(f.workload.inputs[rows]), f.workload.targets[rows]).mean().backward()
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("name", [*TOGETHER, *MIXING, *COMPUTED])
def test_in_full_a_client_gets_what_torch_optim_gives_it(name):
    f = federation(name, Method(train="full"), full=("*",))
    found = f.train(range(4))
    for client in range(4):
        after = trained_alone(name, f, client)
        for block in f.blocks:
            moved = (after[block.name] - f.state.weights[block.name]).detach()
            torch.testing.assert_close(found.factors[block.key("D")][client], moved, rtol=1e-11, atol=1e-12)
    assert all(found.factors[b.key("D")].any() for b in f.blocks if name not in UNUSED or b.name not in UNUSED[name])


@pytest.mark.parametrize("method", ["left", "right", "both"])
@pytest.mark.parametrize("name", [*TOGETHER, *MIXING])
def test_at_low_rank_a_client_gets_what_the_oracle_gives_it(name, method):
    """Two rounds with the server's steps; the optimizer, clipping and decay are each client's own."""
    check(federation(name, METHODS[method], LOCALS["everything"]), rounds=2)


@pytest.mark.parametrize("name", ["mixture", "GRU", "Conv1d"])
@pytest.mark.parametrize("method", [Method(train="both", average="products"), Method(fresh=False, merge=False)])
def test_other_methods_on_other_layers(name, method):
    check(federation(name, method, LocalSpec("adamw", lr=0.02, batch_size=3)), rounds=2)


def test_theory_step_on_fused_experts():
    check(federation("mixture", Method(), LocalSpec(lr=0.02, batch_size=3, precondition=True)), rounds=2)


UNUSED = {"weight of a layer that is not called": ("inner.bias",)}
