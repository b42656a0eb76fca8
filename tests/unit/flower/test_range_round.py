"""A basis that the clients find in round 0: the main rows of their mean gradient, whatever happens to updates."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command import facts, lines

import fedrac
from fedrac import models
from fedrac.algorithm.range_finder import ROUND, RangeFinder, blocks_of, rows_of
from fedrac.algorithm.round_start import draw_sketches
from fedrac.algorithm.sketch import SketchSpec
from fedrac.experiment import compose
from fedrac.experiment.prepare import ReadyRun, prepare
from fedrac.experiment.run import in_process
from fedrac.partition import partition

DATA = {"examples": 90, "test_examples": 20, "features": 6, "outputs": 4, "clients": 1, "seed": 7}
COMMAND = [
    *("data=linear_regression", *(f"data.{key}={value}" for key, value in DATA.items()), "pretrain=none", "model=mlp"),
    *("model.inputs=6", "model.hidden=[5]", "model.outputs=4", "partition=size", "partition.clients=6"),
    *("method=two_sided", "rank=2", "adapt.columns=3", "adapt.fresh_columns=1", "adapt.basis=clients"),
    *("local.schedule.shape=constant", "runtime.dtype=float64", "rounds=3", "evaluate.every=1", "cohort.size=6"),
]


def ready(*overrides: str) -> ReadyRun:
    settings = compose.load([*COMMAND, *overrides])
    return prepare(settings, in_process(settings))


def mean_gradients(found: ReadyRun) -> dict[str, torch.Tensor]:
    """Of all clients' mean losses at the first weights; every client counts alike."""
    settings: Any = compose.load(COMMAND)
    examples = found.examples
    assert examples is not None and found.strategy.state is not None
    model = models.build(found.experiment.model, found.experiment.seed).double()
    model.load_state_dict(found.strategy.state.weights)
    shards = partition.make(settings.partition, examples, found.experiment.seed)
    inputs, targets = (torch.as_tensor(x).double() for x in (examples.train.inputs, examples.train.targets))
    losses = [examples.task.loss(model(inputs[at]), targets[at]).mean() for at in map(shards.of, range(6))]
    torch.stack(losses).mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same_rows(found: torch.Tensor, expected: torch.Tensor, digits: float) -> None:
    """Each is the other's, or its negative."""
    cosines = (found * expected).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(len(found), dtype=torch.float64), rtol=0, atol=digits)


def expected_rows(found: ReadyRun) -> dict[str, torch.Tensor]:
    """The main right singular vectors of Omega^T G."""
    gradients, blocks = mean_gradients(found), blocks_of(found.strategy.blocks)
    sketches = draw_sketches(blocks, RangeFinder(), SketchSpec("gaussian", found.experiment.seed), ROUND).values
    seen = {b.key("A"): sketches[b.name].T @ gradients[b.name] for b in blocks}
    return {key: torch.linalg.svd(each).Vh[:2] for key, each in seen.items()}


def test_it_is_the_main_rows_of_the_clients_mean_gradient() -> None:
    found = ready()
    for key, rows in expected_rows(found).items():
        assert rows.shape[0] == found.strategy.basis[key].shape[0] == 2  # the third is drawn anew
        same_rows(found.strategy.basis[key], rows, 1e-9)
        torch.testing.assert_close(found.strategy.basis[key] @ rows.T @ rows, found.strategy.basis[key])


def test_masks_and_bounds_do_to_it_what_they_do_to_any_update() -> None:
    plain, hidden = ready("guard.clip=100"), ready("guard.clip=100", "secure_aggregation=on")
    for key, rows in plain.strategy.basis.items():
        same_rows(hidden.strategy.basis[key], rows, 1e-4)


def test_directions_that_there_are_not_are_random() -> None:
    """A gradient of zero says nothing, and one of rank 1 one thing."""
    block = ready().strategy.blocks[0]
    none = rows_of(block, torch.zeros(2, 6), seed=1)
    torch.testing.assert_close(none @ none.T, torch.eye(2, dtype=torch.float64))
    direction = torch.tensor([[3.0, 0, 4, 0, 0, 0]])
    one = rows_of(block, torch.cat([direction, 2 * direction]), seed=1)
    torch.testing.assert_close(one[0], direction[0].double() / 5)
    torch.testing.assert_close(one @ one.T, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("hosts", [1, 3])
def test_its_bytes_are_of_round_1_and_a_run_that_goes_on_does_not_find_it_again(hosts: int, tmp_path: Path) -> None:
    command = [*COMMAND, "cohort.size=4", f"runtime.hosts={hosts}"]
    whole = fedrac.run(*command, f"output_dir={tmp_path}/whole", progress=False)
    fedrac.run(*command, "rounds=2", f"output_dir={tmp_path}/part", progress=False)
    resumed = fedrac.run(f"resume={tmp_path}/part", "rounds=3", progress=False)
    assert facts(f"{tmp_path}/part") == facts(f"{tmp_path}/whole")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    first, second, _ = (line["upload_bytes"] for line in lines(f"{tmp_path}/whole"))
    omega = 5 * 6 + 4 * 5  # of both layers: as many columns as it has rows, which are fewer than k0 + 8
    assert first == second + 4 * 8 * omega


def test_its_privacy_is_accounted(tmp_path: Path) -> None:
    """A round of noise more than with a basis that comes from nobody's data."""
    pytest.importorskip("dp_accounting")
    noise = ["cohort.size=3", "guard.clip=0.5", "guard.noise=2", "guard.noise_seed=3"]
    spent = {}
    for source in ("clients", "random"):
        found = fedrac.run(*COMMAND, *noise, f"adapt.basis={source}", f"output_dir={tmp_path / source}", progress=False)
        spent[source] = found.history["privacy/epsilon"][1:].tolist()
    assert spent["clients"][:2] == spent["random"][1:]
