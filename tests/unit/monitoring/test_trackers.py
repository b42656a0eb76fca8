"""What TensorBoard, MLflow and Weights & Biases get is what ``metrics.jsonl`` has."""

import contextlib
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import TINY

from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.experiment.settings import ConfigError, parse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def followed(folder: Path, *overrides: str) -> dict[str, list[tuple[int, float]]]:
    """Runs; returns all numbers that ``metrics.jsonl`` has then, by name, with their rounds."""
    place = "resume" if (folder / "config.yaml").exists() else "output_dir"
    settings = compose.load([*overrides, f"{place}={folder}"])
    run(settings, in_process(settings), folder)
    columns: dict[str, list[tuple[int, float]]] = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name, value in line.items():
            if name not in ("round", "cohort"):
                columns.setdefault(name, []).append((line["round"], value))
    for name, value in json.loads((folder / "summary.json").read_text())["initial"].items():
        columns[name].insert(0, (0, value))
    return columns


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6), name


@pytest.mark.slow
def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read() -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}

    expected = followed(tmp_path, *TINY, "track=tensorboard")
    close(read(), expected)
    expected = followed(tmp_path, "rounds=4")
    close(read(), expected)
    assert expected["test/loss"][-1][0] == 4


@pytest.mark.slow
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    followed(tmp_path / "run", *TINY, "track=mlflow")
    expected = followed(tmp_path / "run", "rounds=4")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    names = list(found.data.metrics)
    history = {name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)] for name in names}
    close(history, expected)
    assert found.info.status == "FINISHED" and found.data.params["cohort.size"] == "3"


def logged(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B: seven bytes, then LevelDB's log, in blocks of 32 KiB."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:  # the rest of a block that has no place for a header
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def recorded(folder: Path, ends: int) -> list[Any]:
    """What W&B has of a run in its files, once it has ended so often: a process of its own writes them."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(300):
        files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)
        with contextlib.suppress(DecodeError, IndexError):  # under way
            records = [Record.FromString(data) for path in files for data in logged(path.read_bytes())]
            if sum(record.HasField("exit") for record in records) == ends:
                return records
        time.sleep(0.1)
    pytest.fail(f"W&B did not write the end of {ends} runs")


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run, also after a stop; read from the files that ``wandb sync`` would send."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    followed(folder, *TINY, "track=wandb")
    time.sleep(1.1)  # W&B names a folder by the second
    expected = followed(folder, "rounds=4")
    history: dict[str, list[tuple[int, float]]] = {}
    records = recorded(folder, ends=2)
    for record in records:
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            history.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    close({name: points for name, points in history.items() if not name.startswith("_")}, expected)
    about = json.loads((folder / "wandb.json").read_text())
    names = {path.name for path in folder.glob("wandb/offline-run-*/*.wandb")}
    assert names == {f"run-{about['run_id']}.wandb"}
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0, 0]


def test_what_cannot_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="track='comet' is unknown: choose tensorboard, mlflow, wandb or null"):
        parse(compose.load([*TINY, "track=comet"]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mlflow is not installed; pip install 'fedrac\[mlflow\]'"):
        parse(compose.load([*TINY, "track=mlflow"]))
