"""What settings may name that `flwr run` hands to a server."""

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

import server_app
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.operator import VARIABLE, server_limits
from fedrac.loading.limits import Limits
from fedrac.monitoring import progress


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "show_log", lambda: None)
    monkeypatch.delenv(VARIABLE, raising=False)


def run(tmp_path: Path, overrides: str) -> None:
    context = Context(1, 1, {}, RecordDict(), {"preset": "", "overrides": f"{overrides} output_dir={tmp_path / 'out'}"})
    server_app.main(InProcessGrid(client_app.app), context)


@pytest.mark.parametrize("overrides", [
    "data=custom data._target_=trapped.load",
    "model=custom model._target_=trapped.load",
    "+data.x={_target_:trapped.load}",
    "++pretrain.data._target_=trapped.load",
    "partition.scheme=trapped.load",
    "+data.metrics=[trapped.load]",
])  # fmt: skip
def test_a_deployed_server_names_fedracs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: str) -> None:
    (tmp_path / "trapped.py").write_text("raise SystemExit('the trap')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"may not be named|plain values|was given"):
        run(tmp_path, overrides)
    assert not (tmp_path / "out").exists()


def test_the_operator_allows_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = InProcessGrid(client_app.app)
    strict = server_limits(grid)
    assert strict is not None and strict.folders is None and "fedrac.models.mlp" in strict.names["models"]
    (tmp_path / "policy.yaml").write_text(f"loaders: [ours.load]\nfolders: [{tmp_path}]\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "policy.yaml"))
    found = server_limits(grid)
    assert isinstance(found, Limits) and found.names["loaders"] == {"ours.load"} and found.folders == (tmp_path,)


def test_in_a_simulation_everything_is_the_researchers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the operator says otherwise."""
    grid = object.__new__(InMemoryGrid)
    assert server_limits(grid) is None
    (tmp_path / "policy.yaml").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "policy.yaml"))
    assert server_limits(grid) is not None
