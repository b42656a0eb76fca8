"""Nodes agree on a scale of their columns before a run: the run is the one on rows that were scaled in one place."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from safetensors.torch import load_file

import fedrac
from fedrac.data import own
from fedrac.experiment.settings import ConfigError
from fedrac.flower import client_app, node
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol import code_digest
from fedrac.protocol.connected_clients import encode_question

RNG = np.random.default_rng(3)
PARTS = [RNG.normal((50 * n, 2.0), (5.0, 0.1), (12 + n, 2)) for n in range(3)]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path / "cache"))
    node.forget()
    own._loaded.cache_clear()


def write(folder: Path, parts: list[Any]) -> str:
    """A folder a node; returns their list, as ``partition.folders`` has it."""
    for place, part in enumerate(parts):
        (folder / str(place)).mkdir(parents=True, exist_ok=True)
        rows = "\n".join(f"{float(a)!r},{float(b)!r},{('no', 'yes')[i % 2]}" for i, (a, b) in enumerate(part))
        (folder / str(place) / "train.csv").write_text(f"a,b,ill\n{rows}\n")
    return f"partition.folders=[{','.join(str(folder / str(place)) for place in range(len(parts)))}]"


def settings(folders: str, output: Path, standardize: str, *more: str) -> list[str]:
    return [
        *("experiment=nodes", "data=table", "data.target=ill", "data.features=[a,b]", "data.classes=[no,yes]"),
        *("model.inputs=2", "model.outputs=2", "model.hidden=[3]", "pretrain=none", "data.path=null"),
        *("rounds=2", "local.schedule.shape=constant"),
        *(
            f"data.standardize={standardize}",
            folders,
            f"output_dir={output}",
            "cohort.timeout=5",
            "local.schedule.shape=constant",
            *more,
        ),
    ]


def test_the_run_is_that_on_rows_scaled_in_one_place(tmp_path: Path) -> None:
    everything = np.concatenate(PARTS).astype(np.float32).astype(float)
    mean, deviation = everything.mean(0), everything.std(0)
    found = fedrac.run(*settings(write(tmp_path, PARTS), tmp_path / "out", "agreed"), progress=False)
    scale = found.config["data"]["standardize"]
    assert scale["mean"] == pytest.approx(mean.tolist(), rel=1e-9)
    assert scale["deviation"] == pytest.approx(deviation.tolist(), rel=1e-6)
    ready = write(tmp_path / "scaled", [(part - mean) / deviation for part in PARTS])
    node.forget()
    fedrac.run(*settings(ready, tmp_path / "expected", "false"), progress=False)
    for name, value in load_file(tmp_path / "expected" / "checkpoint" / "weights.safetensors").items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=0, atol=1e-5)
    resumed = fedrac.run(f"resume={tmp_path}/out", "rounds=3", progress=False)
    assert resumed.config["data"]["standardize"] == scale


def test_what_cannot_be_agreed_on_is_refused(tmp_path: Path) -> None:
    two = write(tmp_path, PARTS[:2])
    with pytest.raises(RuntimeError, match="needs at least 3 nodes, 2 are here"):
        fedrac.run(*settings(two, tmp_path / "out", "agreed", "cohort.size=2"), progress=False)
    with pytest.raises(ConfigError, match="is for nodes with tables of their own"):
        common = ["partition=iid", "partition.clients=3", "data.path=x.csv"]
        fedrac.run(*settings("seed=1", tmp_path / "out", "agreed", *common), progress=False)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_node_takes_one_scale_a_run_and_tells_no_sum_that_was_not_agreed_on(tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    (tmp_path / "policy.yaml").write_text("least_examples: 5")
    config = {"partition-id": 0, "data": str(tmp_path / "0"), "policy": str(tmp_path / "policy.yaml")}
    InProcessGrid(client_app.app)  # identifies this process
    table = {
        "_target_": "fedrac.data.table.table", "path": "/x", "target": "ill", "features": ["a", "b"],
        "classes": ["no", "yes"],
    }  # fmt: skip
    context = Context(5, 1, {**config, "state": str(tmp_path / "state")}, RecordDict(), {})
    numbers = itertools.count()

    def ask(standardize: object) -> str:
        work = {
            "code": code_digest.digest(), "data": {**table, "standardize": standardize},
            "partition": {"scheme": "nodes"},
            "model": {"_target_": "fedrac.models.mlp", "inputs": 2, "hidden": [3], "outputs": 2},
            "seed": 1, "dtype": "float32", "device": "cpu",
        }  # fmt: skip
        message = Message(encode_question(work), 1, "query")
        message.metadata.__dict__["_message_id"] = str(next(numbers))
        records = client_app.app(message, context).content.config_records
        return str(records["error"]["reason"]) if "error" in records else ""

    first, second = ({"mean": [m, 2.0], "deviation": [5.0, 0.1]} for m in (50.0, 51.0))
    assert ask("agreed") == "" and ask(first) == "" and ask("agreed") == ""
    assert "otherwise before" in ask(second) and "otherwise before" in ask(False)
