"""Nodes with data of their own: each is one client; together they are what an undivided run would be."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import Context, RecordDict
from safetensors.torch import load_file

from fedrac import data
from fedrac.cli import main
from fedrac.data import idx, own
from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.node import host_of
from fedrac.partition import partition
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.protocol.node_config import NodeConfig

NODES = 3
RUNS = itertools.count(1)  # a node lets a run describe itself in one way only
SMALL = ["rounds=2", "cohort.size=3", "evaluate.every=1", "runtime.dtype=float64"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default digits, divided among three nodes."""
    folder = tmp_path_factory.mktemp("split") / "digits"
    _command("split", str(folder), f"partition.clients={NODES}")
    return folder


def _command(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr("sys.argv", ["fedrac", *arguments])
        main.main()
    if stop.value.code != 0:
        raise RuntimeError(stop.value.code)


def _run(output: Path, *overrides: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    settings = compose.load([*overrides, f"output_dir={output}"])
    summary = run(settings, in_process(settings), output)
    return load_file(output / "checkpoint" / "weights.safetensors"), summary


def _of_nodes(folders: Path, *nodes: int, server: str | None = None) -> list[str]:
    places = ",".join(str(folders / f"node-{node}") for node in nodes or range(NODES))
    return ["experiment=nodes", f"data.path={server or folders / 'server'}", f"partition.folders=[{places}]", *SMALL]


def _workload(folders: Path, **changes: Any) -> dict[str, Any]:
    from fedrac.experiment.settings import parse

    return {**parse(compose.load(_of_nodes(folders))).workload(), **changes}


def _context(**node: Any) -> Context:
    return Context(next(RUNS), 1, {key.replace("_", "-"): value for key, value in node.items()}, RecordDict(), {})


def test_divided_among_nodes_is_the_same_run(folders: Path, tmp_path: Path) -> None:
    """The same split, once as clients of common data, once as folders: weights and metrics are equal."""
    common, first = _run(tmp_path / "common", f"partition.clients={NODES}", *SMALL)
    separate, second = _run(tmp_path / "separate", *_of_nodes(folders))
    for name, value in common.items():
        torch.testing.assert_close(separate[name], value, rtol=1e-6, atol=1e-9)
    assert second["last"] == pytest.approx(first["last"], rel=1e-6)


def test_without_data_on_the_server_nodes_are_tested(folders: Path, tmp_path: Path) -> None:
    _, summary = _run(tmp_path, *_of_nodes(folders, server="null"), "pretrain=none")
    spread = {f"clients/{part}_{name}" for part in ("mean", "worst10", "sd") for name in ("loss", "accuracy")}
    assert {"clients/loss", "clients/accuracy", "train/loss"} | spread == set(summary["last"])


def test_the_log_of_a_node_says_why_it_cannot_serve(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = InProcessGrid(client_app.app, [{"partition-id": 0, "data": "/nowhere/at/all"}])
    with pytest.raises(RuntimeError, match="node 1 cannot serve: FileNotFoundError: there is no /nowhere/at/all"):
        ConnectedClients(_workload(folders), 1.0).refresh(grid)
    assert caplog.messages[0].startswith("the server is told: FileNotFoundError: there is no /nowhere/at/all (on ")


def test_many_nodes_in_one_process_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    monkeypatch.setattr("fedrac.flower.node.Host", lambda _workload, place, *_: loaded.append(place))
    nodes = range(200)
    for _ in range(2):
        for node in nodes:
            host_of({"seed": "of this test", "data": {}}, _context(partition_id=node, data="/data"))
    assert loaded == [*nodes]


def test_a_node_is_the_client_of_its_partition_id(folders: Path) -> None:
    workload = _workload(folders)
    hosted = host_of(workload, _context(partition_id=7, data=str(folders / "node-1"))).hosted()
    labels = idx.read(folders / "node-1" / "train-labels-idx1-ubyte.gz")
    assert hosted.clients.tolist() == [7] and hosted.examples.tolist() == [len(labels)]
    assert hosted.partition == ""


@pytest.mark.parametrize("bound, told", [(1, 1), (100, 100), (10**6, None)])
def test_the_number_of_examples_can_be_hidden(folders: Path, bound: int, told: int | None) -> None:
    """In the announcement and in metrics, whose means stay what they are."""
    place = str(folders / "node-0")
    workload = _workload(folders)
    open_ = host_of(workload, _context(partition_id=0, data=place))
    hiding = host_of(workload, _context(partition_id=0, data=place, tell_examples=bound))
    count = told or int(open_.hosted().examples[0])
    weights = {name: value.clone() for name, value in open_.model.state_dict().items()}
    true, said = open_.evaluate(weights, [0]), hiding.evaluate(weights, [0])
    assert hiding.hosted().examples.tolist() == [count] == said["examples"]
    for name in ("loss", "accuracy"):
        assert said[name][0] / count == pytest.approx(true[name][0] / true["examples"][0], rel=1e-12)


def test_a_node_is_tested_on_its_own_test_examples(folders: Path, tmp_path: Path) -> None:
    for file in [*(folders / "node-0").iterdir(), *(folders / "server").glob("t10k*")]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    host = host_of(_workload(folders), _context(partition_id=0, data=str(tmp_path)))
    weights = {name: value.clone() for name, value in host.model.state_dict().items()}
    assert host.evaluate(weights, [0])["examples"] == [len(host.data.test)] != [len(host.data.train)]


NODE_ERRORS = {
    "no data": ({"partition_id": 0, "num_partitions": 1}, "node-config names no data"),
    "no folder": ({"partition_id": 0, "data": "/nowhere/at/all"}, "there is no /nowhere/at/all"),
    "no id": ({"data": "/data"}, "node-config has no 'partition-id'"),
    "negative id": ({"partition_id": -1, "data": "/data"}, r"partition-id=-1 must lie in 0 \.\."),
    "no number": ({"partition_id": "first", "data": "/data"}, "partition-id and num-partitions must be whole numbers"),
    "relative": ({"partition_id": 0, "data": "my/data"}, "give an absolute path"),
    "unknown function": ({"partition_id": 0, "data": "no_such_module.load"}, "no_such_module"),
    "not a path": ({"partition_id": 0, "data": 3}, "data=3 must be a path"),
    "misspelt": ({"partition_id": 0, "data": "/data", "tel_examples": 3}, "did you mean tell-examples"),
    "zero": ({"partition_id": 0, "data": "/data", "tell_examples": 0}, "tell-examples=0: a whole number from 1"),
}


@pytest.mark.parametrize("node, message", NODE_ERRORS.values(), ids=NODE_ERRORS)
def test_a_wrong_node_config_says_what_is_right(folders: Path, node: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        host_of(_workload(folders), _context(**node))


def test_keys_of_other_apps_are_left_alone() -> None:
    assert NodeConfig.read({"partition-id": 1, "num-partitions": 2, "region": "north"}) == NodeConfig(1, 2)


def test_own_data_are_not_used_for_a_run_that_divides_common_ones(folders: Path) -> None:
    spec = _workload(folders, partition={"scheme": "iid", "clients": 3})
    with pytest.raises(ValueError, match=r"this node trains on its own data only .*partition=nodes"):
        host_of(spec, _context(partition_id=0, data=str(folders / "node-0")))


@pytest.mark.parametrize("change, message", [
    ({"model": {"_target_": "fedrac.models.mlp", "inputs": 9}}, "model.inputs=784"),
    ({"model": {"_target_": "fedrac.models.mlp", "outputs": 2}}, "model has 2 outputs"),
    ({"data": {"_target_": "fedrac.data.mnist.idx", "path": None}}, "data.classes is not set"),
    ({"data": {"_target_": "fedrac.data.mnist.idx", "path": None, "classes": [17]}}, "the train part has no examples"),
    ({"data": {"_target_": "fedrac.data.mnist.embedded"}}, "takes no path: choose data=idx"),
])  # fmt: skip
def test_nodes_check_the_configuration_against_their_data(folders: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        host_of(_workload(folders, **change), _context(partition_id=0, data=str(folders / "node-0")))


def test_a_function_of_the_nodes_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hospital.py").write_text(
        "import numpy as np\ndef load():\n"
        "    x = np.arange(12.0).reshape(6, 2)\n    return (x, np.arange(6) % 2), (x[:0], np.arange(0))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = own.load({"_target_": "???"}, "hospital.load")
    assert len(found.train) == 6 and len(found.test) == 0


# --- tables ---------------------------------------------------------------------------------------------------------

TABLE: dict[str, Any] = {
    "_target_": "fedrac.data.table.table", "path": None, "target": "ill", "features": ["b", "a"],
    "classes": ["no", "yes"], "standardize": False,
}  # fmt: skip


def _table(path: Path, labels: list[str]) -> None:
    frame = pd.DataFrame({"a": range(len(labels)), "ill": labels, "b": 0.5})
    (frame.to_parquet if path.suffix == ".parquet" else frame.to_csv)(path, index=False)


@pytest.mark.parametrize("name", ["train.csv", "train.parquet"])
def test_a_folder_with_a_table(tmp_path: Path, name: str) -> None:
    """All rows are for training; classes and columns are those of the list, whatever is there."""
    _table(tmp_path / name, ["yes", "yes", "yes"])
    found = own.load(TABLE, str(tmp_path))
    assert found.train.targets.tolist() == [1, 1, 1] and found.outputs == 2 and len(found.test) == 0
    assert np.asarray(found.train.inputs).tolist() == [[0.5, 0.0], [0.5, 1.0], [0.5, 2.0]]
    _table(tmp_path / "test.csv", ["no", "yes"])
    own._loaded.cache_clear()
    assert own.load(TABLE, str(tmp_path)).test.targets.tolist() == [0, 1]


@pytest.mark.parametrize("change, message", [
    ({"standardize": True}, "set data.standardize=false"),
    ({"features": None}, "data.features to the list of columns"),
    ({"classes": None}, "data.classes to the list of all labels"),
    ({"classes": ["no", "ill"]}, r"data row 1, holds 'yes', which is not one of data.classes=\['no', 'ill'\]"),
])  # fmt: skip
def test_tables_that_nodes_would_read_differently(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    _table(tmp_path / "train.csv", ["yes", "no"])
    with pytest.raises(ValueError, match=message):
        own.load({**TABLE, **change}, str(tmp_path))


def test_folders_without_a_table_or_with_two(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has neither train\.csv nor test\.csv"):
        own.load(TABLE, str(tmp_path))
    for name in ("train.csv", "train.parquet"):
        _table(tmp_path / name, ["yes"])
    with pytest.raises(ValueError, match=r"has train\.csv and train\.parquet: leave one"):
        own.load(TABLE, str(tmp_path))


# --- fedrac split ---------------------------------------------------------------------------------------------------


def test_split_writes_every_image_once(folders: Path) -> None:
    """The nodes' images are the common training set; the server has the test set and what pre-training needs."""
    common = data.load(compose.load([]).data)
    divided = partition.make(compose.load([f"partition.clients={NODES}"]).partition, common, 1)
    spec = {"_target_": "fedrac.data.mnist.idx", "classes": [5, 6, 7, 8, 9], "path": None}
    for node in range(NODES):
        found, rows = own.load(spec, str(folders / f"node-{node}")), divided.of(node)
        assert np.array_equal(found.train.inputs, common.train.inputs[rows])
        assert np.array_equal(found.train.targets, common.train.targets[rows])
    server = data.load({**spec, "classes": [0, 1, 2, 3, 4], "path": str(folders / "server")})
    other = data.load({**compose.load([]).data, "classes": [0, 1, 2, 3, 4]})
    assert np.array_equal(server.train.inputs, other.train.inputs)
    tested = own.load(spec, str(folders / "server")).test
    assert np.array_equal(tested.inputs, common.test.inputs) and np.array_equal(tested.targets, common.test.targets)


def test_split_writes_the_rows_of_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": range(40), "ill": ["no", "yes"] * 20, "b": 0.5})
    frame.to_csv(tmp_path / "all.csv", index=False)
    table = ["data=table", f"data.path={tmp_path / 'all.csv'}", "data.target=ill", "pretrain=none"]
    _command("split", str(tmp_path / "out"), *table, "partition=iid", "partition.clients=4")
    parts = [pd.read_parquet(tmp_path / "out" / f"node-{node}" / "train.parquet") for node in range(4)]
    parts.append(pd.read_parquet(tmp_path / "out" / "server" / "test.parquet"))
    assert pd.concat(parts).sort_values("a").reset_index(drop=True).equals(frame)
    assert len(parts[-1]) == 8


def test_split_refuses_what_it_cannot_do(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="is there already: choose another folder"):
        _command("split", str(folders))
    with pytest.raises(RuntimeError, match="divides images and tables"):
        _command("split", str(tmp_path / "out"), "data=linear_regression", "partition.clients=3", "partition=iid")
    assert not list(tmp_path.iterdir())
