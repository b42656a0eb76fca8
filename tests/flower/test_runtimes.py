"""The same experiment in this process and in Flower's simulation: the same cohorts, weights and files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fedrac.experiment import compose
from fedrac.experiment.run import run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.superlink import run_app

pytestmark = pytest.mark.slow

CLIENTS = 6
# Data and pre-training of its own: what Flower's processes compute first, this one finds in the cache.
OVERRIDES = (
    "data=linear_regression data.seed=77 data.examples=120 data.test_examples=30 data.features=6 data.outputs=4 "
    "pretrain=none ++pretrain.enabled=true ++pretrain.seed=77 ++pretrain.epochs=2 model=mlp model.inputs=6 "
    f"'model.hidden=[5]' model.outputs=4 partition=size partition.clients={CLIENTS} cohort.size=4 rank=2 rounds=3 "
    "local.batch_size=8 local.epochs=2 evaluate.every=2 evaluate.on_clients=true runtime.dtype=float64"
)


TWO_SIDED = (
    f"{OVERRIDES} method=two_sided adapt.columns=3 adapt.basis=inputs adapt.fresh_columns=1 ++basis.data.seed=78 "
    "upload.bits=4 download.bits=8"
)


def in_process(folder: Path, hosts: int, overrides: str = OVERRIDES) -> Path:
    settings = compose.load([*compose.split_overrides(overrides), f"runtime.hosts={hosts}", f"output_dir={folder}"])
    run(settings, InProcessGrid(client_app.app, hosts), folder)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoint" / "weights.safetensors")


def cached() -> set[str]:
    return {path.name for path in Path(os.environ["FEDRAC_CACHE"]).iterdir()}


def compare(found: Path, expected: Path, tolerance: float) -> None:
    """Exact facts are the same, numbers to a tolerance relative to the largest of each tensor."""
    for line, other in zip(lines(found), lines(expected), strict=True):
        assert line.keys() == other.keys()
        for name, value in other.items():
            if name != "seconds":
                assert line[name] == (pytest.approx(value, rel=tolerance) if "/" in name else value), name
    for name, value in weights(expected).items():
        atol = tolerance * float(value.abs().max())
        torch.testing.assert_close(weights(found)[name], value, rtol=0, atol=atol)


@pytest.mark.parametrize("supernodes", [1, 5])
def test_supernodes_do_not_change_the_run(flower_run: Callable[..., Path], tmp_path: Path, supernodes: int) -> None:
    before = cached()
    found = flower_run(OVERRIDES, supernodes)
    if supernodes == 1:
        assert cached() > before  # FEDRAC_CACHE reached Flower's processes
    before = cached()
    same, one = in_process(tmp_path / "same", supernodes), in_process(tmp_path / "one", 1)
    assert cached() == before
    compare(found, same, 0.0)  # bit for bit: as many hosts, each with the same clients
    compare(found, one, 1e-12)
    assert {path.name for path in found.iterdir()} == {path.name for path in one.iterdir()}
    first, last = lines(found)[0], lines(found)[-1]
    assert len({tuple(line["cohort"]) for line in lines(found)}) > 1
    assert "test/mse" in last and "clients/mse" in last and "test/mse" not in first
    assert weights(found)["layers.0.weight"].dtype == torch.float64


def test_supernodes_under_masks(flower_run: Callable[..., Path], tmp_path: Path) -> None:
    """What a node remembers between the steps of a round stays with it, whichever actor works for it."""
    secure = f"{OVERRIDES} evaluate.on_clients=false secure_aggregation=on guard.clip=5"
    settings = compose.load([*compose.split_overrides(secure), "runtime.hosts=3", f"output_dir={tmp_path / 'same'}"])
    run(settings, InProcessGrid(client_app.app, 3), tmp_path / "same")
    compare(flower_run(secure, 3), tmp_path / "same", 0.0)


@pytest.mark.parametrize("source", ["inputs", "clients"])
def test_two_sides_in_few_bits(flower_run: Callable[..., Path], tmp_path: Path, source: str) -> None:
    """Nodes are sent the basis, rebuild both sides from it and the seed, and step with the server's rounded means."""
    overrides = f"{TWO_SIDED} adapt.basis={source}"
    found, same = flower_run(overrides, 2), in_process(tmp_path / "same", 2, overrides)
    compare(found, same, 0.0)
    assert (found / "checkpoint" / "basis.safetensors").exists()


def test_a_method_of_ones_own(flower_run: Callable[..., Path], tmp_path: Path) -> None:
    """Its module is where Python finds it; its mean is taken on the server, its step on the nodes, too."""
    own = f"{OVERRIDES} method=custom method._target_=own_methods.Own +method.inertia=0.25"
    compare(flower_run(own, 2), in_process(tmp_path / "same", 2, own), 0.0)


def test_sparse_factors(flower_run: Callable[..., Path], tmp_path: Path) -> None:
    """Every message has the factors that the round starts from."""
    overrides = f"{OVERRIDES} method=flasc method.download_density=0.4 'method.optimizer={{name: adam, lr: 0.05}}'"
    compare(flower_run(overrides, 2), in_process(tmp_path / "same", 2, overrides), 0.0)


@pytest.mark.parametrize(
    "method",
    [
        "fedsa_lora 'method.ranks=[1,2]'",
        "scaffold local=sgd method.participation=0.666667",
    ],
    ids=["fedsa_lora", "scaffold"],
)
def test_what_stays_with_clients(flower_run: Callable[..., Path], tmp_path: Path, method: str) -> None:
    """Whichever actor works for them: they have it from the server's process, which keeps it."""
    overrides = f"{OVERRIDES} method={method}"
    found, same = flower_run(overrides, 2), in_process(tmp_path / "same", 2, overrides)
    compare(found, same, 0.0)
    ours, theirs = (load_file(folder / "checkpoint" / "clients.safetensors") for folder in (found, same))
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_run_that_cannot_start_says_why(
    superlink: dict[str, str], app_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = f"{OVERRIDES} cohort.size={CLIENTS + 1} output_dir={tmp_path / 'out'}"
    assert run_app(superlink, app_dir, overrides, supernodes=1) != 0
    said = "".join(capfd.readouterr())
    assert (
        f"cohort.size={CLIENTS + 1} is larger than the population of {CLIENTS} clients: set cohort.size={CLIENTS}"
        in said
    )
    assert not (tmp_path / "out").exists()
