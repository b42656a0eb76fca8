"""What a run is tested by."""

import json

import pytest
from command import TINY

from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run


def worst(predictions, targets):
    """The largest error."""
    return abs(predictions - targets).max()


def made(tmp_path, *overrides):
    settings = compose.load([*TINY, *overrides, f"output_dir={tmp_path / 'run'}"])
    return run(settings, in_process(settings), tmp_path / "run")


def test_metrics_of_ones_own_are_recorded_beside_those_of_the_task(tmp_path):
    summary = made(tmp_path, f"evaluate.metrics=[{__name__}.worst,pearson]")
    assert {"test/worst", "test/pearson", "test/mse"} <= summary["initial"].keys() & summary["last"].keys()
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["test/worst"] == summary["last"]["test/worst"] > line["test/mse"] ** 0.5


def test_an_unknown_metric_stops_the_run_before_it_leaves_anything(tmp_path):
    with pytest.raises(ValueError, match=r"evaluate\.metrics: 'f1' is no metric of a regression; choose of pearson"):
        made(tmp_path, "evaluate.metrics=[f1]")
    assert not (tmp_path / "run").exists()


def test_metrics_of_the_test_part_need_one_on_the_server(tmp_path):
    """Where nodes have data of their own and the server has none, clients test, and only by means over examples."""
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "train.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 3},{i / 2}\n" for i in range(8)))
    table = [
        "data=table",
        "data.path=null",
        "data.features=[a,b]",
        "data.target=y",
        "data.standardize=false",
        "data.task=regression",
    ]
    nodes = ["partition=nodes", f"partition.folders=[{folder}]", "cohort.size=1", "model=linear", "model.inputs=2"]
    overrides = [*table, *nodes, "model.outputs=1", "pretrain=none", "rounds=1", f"output_dir={tmp_path / 'run'}"]
    settings = compose.load([*overrides, "checkpoint.best=null", "evaluate.metrics=[pearson]"])
    with pytest.raises(ValueError, match=r"evaluate.metrics=\['pearson'\] are of the server's test part"):
        run(settings, in_process(settings), tmp_path / "run")
