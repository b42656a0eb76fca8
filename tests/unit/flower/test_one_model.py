"""In one process, a server and the hosts beside it compute with one model, and find what two models would."""

from contextlib import nullcontext

import pytest
import torch
from command import TINY
from runs import workload

from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.flower import node, one_model
from fedrac.flower.one_model import build, of_host, offered
from fedrac.results import checkpoint
from fedrac.results.record import read_metrics


@pytest.fixture
def built(monkeypatch):
    """All models of workloads that are built."""
    found, original = [], one_model.build
    monkeypatch.setattr(one_model, "build", lambda w: found.append(original(w)) or found[-1])
    return found


def made(folder, *overrides):
    node.forget()
    settings = compose.load([*TINY, *overrides, "rounds=3", f"output_dir={folder}"])
    run(settings, in_process(settings), folder)
    losses = [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl")]
    return checkpoint.merged(folder)[0], losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_run_with_one_model_has_the_bits_of_one_with_two(dtype, hosts, built, tmp_path, monkeypatch):
    overrides = (f"runtime.dtype={dtype}", f"runtime.hosts={hosts}")
    weights, losses = made(tmp_path / "one", *overrides)
    assert len(built) == 1
    monkeypatch.setattr(one_model, "offered", lambda found: nullcontext())
    expected, of_two = made(tmp_path / "two", *overrides)
    assert len(built) == 3
    assert losses == of_two and len(set(losses)) == 3
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_only_the_same_model_of_the_same_seed_and_dtype_is_shared():
    mine = build(workload())
    other = {**workload()["model"], "hidden": [7]}
    with offered(mine):
        assert of_host({**workload(), "partition": {}}) is mine
        for changed in (workload(seed=2), workload(dtype="float32"), workload(model=other)):
            found = of_host(changed)
            assert found.model is not mine.model and found.digest == build(changed).digest
    assert of_host(workload()) is not mine


def test_what_it_was_built_with_is_named_whatever_it_has_become():
    mine, digest = build(workload()), build(workload()).digest
    with offered(mine):
        mine.model.requires_grad_(False).bfloat16()
        assert of_host(workload()).digest == digest
