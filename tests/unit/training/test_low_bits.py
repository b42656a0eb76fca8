"""Weights in few bits: what is computed with them is what is computed with their values, which are nowhere kept."""

import importlib.util

import pytest
import torch
from command import TINY, weights
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from workloads import squared

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import draw_sketches, start_of_round
from fedrac.algorithm.sketch import SketchSpec
from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.flower import host, node
from fedrac.models.weights import use
from fedrac.training import low_bits
from fedrac.training.local import train_cohort
from fedrac.training.low_bits import Codes, LowBits, LowBitWeights
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import Shard, TrainingSetup

coded = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not there")
BITS = pytest.mark.parametrize("bits", low_bits.BITS)


class Net(nn.Module):
    """Linear layers of every kind: adapted, frozen, tied to an embedding, and a head."""

    heads = ("head",)

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.body = nn.Embedding(70, 16), nn.Sequential(nn.Linear(16, 70), nn.Tanh(), nn.Linear(70, 16))
        self.tied, self.head = nn.Linear(16, 70, bias=False), nn.Linear(70, 3)
        self.tied.weight = self.rows.weight

    def forward(self, x):
        return self.head(torch.tanh(self.tied(self.body(self.rows(x).mean(1)))))


@pytest.fixture
def model():
    torch.manual_seed(3)
    return Net().requires_grad_(False)


def whole(model):
    """The model's state dict with the values of what it holds in few bits."""
    return {k: v.whole() if isinstance(v, LowBits) else v for k, v in model.state_dict().items()}


def held(model, bits):
    """The model with weights in few bits, and another one of the class that has their values."""
    use(model, exact := whole(model), LowBitWeights(model, bits).use(exact))
    other = Net().requires_grad_(False)
    other.load_state_dict(whole(model))
    return model, other


@coded
@BITS
@pytest.mark.parametrize("shape", [(3, 5), (70, 16), (700, 801)])
def test_values_are_near_and_codes_are_small(bits, shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = Codes.of(matrix, bits, torch.float32)
    blocks = -(-matrix.numel() // 64)
    assert found.codes.numel() == -(-matrix.numel() * bits // 8) and found.about.absmax.numel() == blocks
    largest = found.about.absmax.repeat_interleave(64)[: matrix.numel()].view(shape)
    step = 0.02 if bits == 8 else 0.16  # half the widest gap between two values of the code
    assert bool(((found.values() - matrix).abs() <= step * largest).all())
    assert torch.equal(Codes.of(matrix.clone(), bits, torch.float32).values(), found.values())
    assert torch.equal(Codes.of(matrix, bits, torch.bfloat16).values(), found.values().bfloat16())


@coded
@BITS
def test_heads_and_shared_weights_stay_whole(model, bits):
    model, _ = held(model, bits)
    low = {name for name, value in model.state_dict().items() if isinstance(value, LowBits)}
    assert low == {"body.0.weight", "body.2.weight"}
    assert model.tied.weight is model.rows.weight


@coded
@BITS
def test_a_cohort_finds_what_it_finds_with_the_values(model, bits):
    """Bit for bit: clients compute with the values that the codes stand for, and with nothing else."""
    data, targets = torch.randint(70, (12, 5)), torch.randn(12, 3)
    spec, method = LocalSpec("adamw", 0.05, epochs=2, batch_size=3), Method()
    shards = [Shard(c, torch.arange(4 * c, 4 * c + 4)) for c in range(3)]
    found = []
    for each in held(model, bits):
        blocks = plan_blocks(each.requires_grad_(True), AdaptSpec({"body.0": 2}, ("head.*",)), method)
        each.requires_grad_(False)
        sketches = draw_sketches(blocks, method, SketchSpec(), 1)
        start = start_of_round(blocks, method.at(1), sketches.values, {}, torch.float32)
        problem = TrainingSetup(each, blocks, squared, lambda i: (data[i], targets[i]))
        found.append(train_cohort(problem, start, shards, spec, 0, 1))
    assert found[0].factors.keys() == {"body.0.weight:A", "head.weight:D", "head.bias:D"}
    assert all(torch.equal(value, found[1].factors[key]) for key, value in found[0].factors.items())
    assert torch.equal(found[0].losses, found[1].losses)


@coded
@BITS
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_values_are_not_kept_for_the_way_back(model, bits, dtype):
    """Nor where autocast has them in another dtype; the gradients are those of the values."""
    found = {}
    for name, each in zip(("low", "whole"), held(model, bits), strict=True):
        x, kept = torch.ones(7, 16, requires_grad=True), []

        def pack(some, own=kept):
            own.append(sorted(some.shape) if not isinstance(some, LowBits) else "low")
            return some

        autocast = torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)
        with saved_tensors_hooks(pack, lambda some: some), autocast:
            each.body(x).float().square().sum().backward()
        found[name] = kept, x.grad
    (low, gradient), (other, expected) = found["low"], found["whole"]
    assert [16, 70] in other and [16, 70] not in low and "low" in low
    assert torch.equal(gradient, expected)


@coded
def test_they_cannot_be_changed_in_place(model):
    model, _ = held(model, 8)
    with pytest.raises(RuntimeError, match="cannot be changed in place"):
        model.body[0].weight.add_(1.0)


@coded
def test_only_what_has_changed_is_coded_anew(model, monkeypatch):
    names = []
    monkeypatch.setattr(Codes, "of", lambda value, *rest, own=Codes.of: names.append(value) or own(value, *rest))
    exact, low = whole(model), LowBitWeights(model, 8)
    low.use(exact)
    exact = {**exact, "body.2.weight": exact["body.2.weight"] + 1.0}
    low.use(exact)
    assert len(names) == 3 and names[-1] is exact["body.2.weight"]
    assert torch.allclose(model.body[2].weight.whole(), exact["body.2.weight"], atol=0.05)


def made(folder, *overrides):
    node.forget()
    settings = compose.load([*TINY, *overrides, f"output_dir={folder}"])
    run(settings, in_process(settings), folder)
    return weights(str(folder))


@coded
@BITS
def test_a_run_is_the_same_on_any_number_of_hosts_and_the_server_tests_whole_weights(bits, tmp_path, monkeypatch):
    seen = []
    original = host.evaluation.measure
    monkeypatch.setattr(
        host.evaluation, "measure", lambda model, *rest: seen.append(whole(model)) or original(model, *rest)
    )
    one, two = (made(tmp_path / str(n), f"runtime.base_bits={bits}", f"runtime.hosts={n}") for n in (1, 2))
    other = made(tmp_path / "whole")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    tested = [each for each in seen if all(torch.equal(each[name], value) for name, value in one.items())]
    assert len(tested) == 2  # the last test of either run


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["runtime.base_bits=3"], "runtime.base_bits=3 is unknown: choose 8 or 4"),
        (["runtime.base_bits=8", "runtime.dtype=float64"], "goes with runtime.dtype=float32 or bfloat16"),
    ],
)
def test_what_is_not_there_is_refused(overrides, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        made(tmp_path, *overrides)


def test_without_bitsandbytes_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(low_bits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"needs the package bitsandbytes: pip install 'fedrac\[low-bits\]'"):
        made(tmp_path, "runtime.base_bits=8")
    assert not (tmp_path / "metrics.jsonl").exists()
