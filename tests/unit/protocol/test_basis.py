"""A basis that is fixed for the run: sent once, kept with the state, and never a reason to send whole weights."""

from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from runs import equal, start, strategy, workload
from test_node_state import Nodes, folders, run

from fedrac import data
from fedrac.algorithm import basis
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.experiment import compose
from fedrac.experiment.run import in_process
from fedrac.experiment.run import run as run_experiment
from fedrac.flower.strategy import FedRacLora
from fedrac.results import checkpoint

ROWS = {f"layers.{i}.weight:A": basis.random(7, str(i), n, 2) for i, n in enumerate((4, 5))}
BASIS = 8 * 2 * (4 + 5)  # bytes
CORES, BIASES = 8 * 2 * (2 * 3), 8 * 8  # of two layers of cores (2, 3), and of the biases


def two_sided(**changes: Any) -> FedRacLora:
    """p = 2, k = 3 of which one is fresh; the basis is the server's alone."""
    adapt = AdaptSpec({"*": 2}, ("*.bias",), 3.0, columns=3, basis="random", fresh_columns=1)
    found = strategy(**{"method": Method(side="both"), "adapt": adapt, "server": ServerSpec(2, eta=0.7), **changes})
    found.basis = ROWS
    return found


@pytest.mark.parametrize("kept", [True, False], ids=["kept on disk", "nothing kept"])
def test_it_is_sent_once_and_late_nodes_replay(kept: bool, tmp_path: Path) -> None:
    usual, found = two_sided(), two_sided()
    expected = runs.train(usual, 3, rounds=6)
    grid = Nodes(folders(tmp_path) if kept else ["", "", ""])
    reports = run(grid, found)
    equal(found.effective_weights(), usual.effective_weights())
    assert [r.download_bytes for r in reports] == [r.download_bytes for r in expected]
    assert not grid.lacks
    sent = [bool(update.basis) for update in grid.updates]
    assert sum(sent) == (3 if kept else len(sent))  # once a node, or to whoever cannot keep it
    if kept:
        assert not any(update.weights for update in grid.updates)
        assert max(len(update.steps) for update in grid.updates) > 1
    else:  # as long as both are shorter than the weights
        assert any(update.steps and update.basis and not update.weights for update in grid.updates)


def test_bytes_are_those_of_the_basis_and_the_cores() -> None:
    found = two_sided(server=ServerSpec(6))
    first, second = runs.train(found, 2, rounds=2)
    assert first.upload_bytes == second.upload_bytes == 6 * (CORES + BIASES)
    assert first.download_bytes == 6 * BASIS and second.download_bytes == 6 * (CORES + BIASES)


@pytest.mark.parametrize("merge", [True, False])
def test_messages_change_nothing(merge: bool) -> None:
    """A run over the grid is, bit for bit, that of the library's parts joined by hand."""
    method = Method(side="both", fresh=merge, merge=merge)
    federation = runs.by_hand(workload(), method, cohort=2, eta=0.7, columns=3, fixed=2, basis=ROWS)
    found = two_sided(method=method)
    runs.train(found, 2, rounds=3)
    for _ in range(3):
        federation.round()
    equal(found.effective_weights(), federation.weights())


@pytest.mark.parametrize("merge", [True, False])
def test_a_run_goes_on_from_its_checkpoint(merge: bool, tmp_path: Path) -> None:
    method = Method(side="both", fresh=merge, merge=merge)
    whole, first, second = (two_sided(method=method) for _ in range(3))
    runs.train(whole, 2, rounds=4)
    runs.train(first, 2, rounds=2)
    assert first.state is not None
    checkpoint.save(tmp_path, first.state, first.effective_weights())
    second.basis = {}
    second.start(runs.grid(2), start(), 4, state=checkpoint.load(tmp_path))
    equal(second.effective_weights(), whole.effective_weights())


CONFIGURED = compose.split_overrides(
    "data=linear_regression data.seed=7 data.examples=90 data.test_examples=20 data.features=6 data.outputs=4 "
    "pretrain=none ++pretrain.enabled=true ++pretrain.seed=7 ++pretrain.epochs=1 ++pretrain.data.seed=8 model=mlp "
    "model.inputs=6 'model.hidden=[5]' model.outputs=4 partition=size partition.clients=6 cohort.size=3 rank=2 "
    "method=two_sided adapt.columns=3 adapt.fresh_columns=1 local.batch_size=8 "
    "local.schedule.shape=constant"
)


@pytest.mark.parametrize("source", ["inputs", "clients", "cosine", "random", "weights"])
def test_sources_and_resume(source: str, tmp_path: Path) -> None:
    def finished(folder: Path, *overrides: str) -> dict[str, torch.Tensor]:
        settings = compose.load(overrides)
        run_experiment(settings, in_process(settings), folder)
        state = checkpoint.load(folder)
        assert set(state.basis) == {
            f"layers.{i}.weight:{x}" for i in (0, 1) for x in ("AB" if source == "weights" else "A")
        }
        return {**state.weights, **state.basis}

    chosen = [*CONFIGURED, f"adapt.basis={source}"]
    whole = finished(tmp_path / "whole", *chosen, f"output_dir={tmp_path / 'whole'}", "rounds=3")
    finished(tmp_path / "part", *chosen, f"output_dir={tmp_path / 'part'}", "rounds=2")
    equal(finished(tmp_path / "part", f"resume={tmp_path / 'part'}", "rounds=3"), whole)
    if source == "inputs":  # of the data of pre-training: their uncentred second moment
        x = torch.tensor(data.load({**compose.load(CONFIGURED).data, "seed": 8}).train.inputs).double()
        top = torch.linalg.eigh(x.T @ x).eigenvectors[:, -2:]
        rows = whole["layers.0.weight:A"].double()
        torch.testing.assert_close(rows.T @ rows, top @ top.T, rtol=0, atol=1e-5)


def test_inputs_need_data_that_no_client_has() -> None:
    settings = compose.load([*CONFIGURED, "adapt.basis=inputs", "++pretrain.data=null"])
    with pytest.raises(ValueError, match=r"adapt.basis=inputs .* set basis.data"):
        run_experiment(settings, in_process(settings), Path("unused"))
