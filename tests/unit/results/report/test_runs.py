"""What is read from a folder of runs, and what is refused with a reason."""

from pathlib import Path

import numpy as np
import pytest
from recorded import record

from fedrac.experiment.compose import load
from fedrac.experiment.run import in_process, run
from fedrac.results.report.runs import Run, find


def found(folder: Path) -> tuple[dict[str, Run], dict[str, str]]:
    runs, skipped = find(folder, folder / "report")
    return {run.name: run for run in runs}, dict(skipped)


def test_a_run_as_it_was_recorded(tmp_path: Path) -> None:
    record(tmp_path / "deep/in/it", (0.5, 0.75), upload=7, seed=3, local__lr=1e-5)
    runs, skipped = found(tmp_path)
    assert not skipped
    (run,) = runs.values()
    assert (run.name, run.seed, run.rounds, run.planned) == ("deep/in/it", 3, 2, 2)
    assert run.config["method.name"] == "Fed-RAC-LoRA" and run.config["local.lr"] == 1e-5
    assert run.columns["test/accuracy"].tolist() == [0.5, 0.75]
    assert run.total("upload_bytes").tolist() == [7, 14]
    assert run.total("seconds").tolist() == [0.0, 0.5], "the first round is one of loading"
    assert run.initial == {"test/accuracy": 0.125, "test/loss": 4.0}
    assert run.labels is None and run.remarks == [] and run.versions["fedrac"]


def test_nothing_that_a_run_writes_is_foreign(tmp_path: Path) -> None:
    """With all that it can be asked for."""
    asked = [
        "rounds=2",
        "checkpoint.every=1",
        "track=tensorboard",
        "runtime.log=json",
        f"output_dir={tmp_path / 'run'}",
    ]
    settings = load(["partition.clients=4", "cohort.size=2", "pretrain.epochs=1", "method=fedavg_lora", *asked])
    run(settings, in_process(settings), tmp_path / "run")
    runs, skipped = found(tmp_path)
    assert list(runs) == ["run"] and not skipped


def test_a_report_in_the_folder_of_the_runs(tmp_path: Path) -> None:
    record(tmp_path / "run")
    assert [run.name for run in find(tmp_path, tmp_path)[0]] == ["run"]


def test_folders_of_any_name(tmp_path: Path) -> None:
    record(tmp_path / "best/checkpoint")
    assert list(found(tmp_path)[0]) == ["best/checkpoint"]


def test_a_folder_that_is_itself_a_run(tmp_path: Path) -> None:
    record(tmp_path)
    assert list(found(tmp_path)[0]) == ["."]


def test_half_written_and_foreign_files(tmp_path: Path) -> None:
    """All that can be used is used; all else is named with the reason."""
    good = record(tmp_path / "good")
    cut = record(tmp_path / "cut", finished=False)
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "sec')
    for name, damage in {
        "empty": ("metrics.jsonl", b""),
        "binary": ("metrics.jsonl", bytes(range(256))),
        "foreign": ("metrics.jsonl", b'{"step": 1}\n'),
        "no_object": ("metrics.jsonl", b"[1, 2]\n"),
        "backwards": ("metrics.jsonl", b'{"round": 2}\n{"round": 1}\n'),
        "yaml": ("config.yaml", b"a: [1,\n"),
        "list": ("config.yaml", b"- 1\n"),
        "text": ("config.yaml", b"hello"),
        "other": ("config.yaml", b"seed: one\nrounds: 1\n"),
    }.items():
        (record(tmp_path / name) / damage[0]).write_bytes(damage[1])
    (record(tmp_path / "no_config") / "config.yaml").unlink()
    failed = tmp_path / "failed"
    failed.mkdir()
    (failed / "config.yaml").write_text("seed: 1\nrounds: 2\n")
    (failed / "error.txt").write_text("Traceback\nValueError: too cold\n")
    (good / "summary.json").write_text("{")
    (good / "clients.npz").write_bytes(b"PK no")
    (good / "notes.txt").write_text("mine")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF")
    (tmp_path / "report").mkdir()
    (tmp_path / "report/table.csv").write_text("")
    for name in ("best", "checkpoint.29"):
        (good / name).mkdir()
        (good / name / "state.json").write_text("{}")
    (tmp_path / "cut/of_a_sweep").mkdir()
    (tmp_path / "cut/of_a_sweep/report.html").write_text("")
    runs, skipped = found(tmp_path)
    assert set(runs) == {"good", "cut"}
    assert runs["good"].remarks == ["summary.json cannot be read", "clients.npz cannot be read"]
    assert runs["cut"].rounds == 3
    assert runs["cut"].remarks == ["metrics.jsonl: line 4 of 4 is cut off; the lines before it are used"]
    assert skipped.keys() == {
        *(
            "empty",
            "binary",
            "foreign",
            "no_object",
            "backwards",
            "yaml",
            "list",
            "text",
            "other",
            "no_config",
            "failed",
        ),
        *("good/notes.txt", "paper.pdf"),
    }
    assert skipped["empty"] == "no round is finished"
    assert skipped["binary"] == "metrics.jsonl is not a text file"
    assert skipped["foreign"] == "metrics.jsonl: line 1 is not that of a run: it has no round above 0"
    assert skipped["backwards"] == "metrics.jsonl: line 2 is not that of a run: it has no round above 2"
    assert skipped["no_config"] == "config.yaml is missing"
    assert skipped["failed"] == "metrics.jsonl is missing; it failed with ValueError: too cold"
    assert skipped["paper.pdf"] == "not a file of a run"


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    record(tmp_path)
    text = '{"round": 1, "test/accuracy": null, "upload_bytes": "many"}\n{"round": 2, "test/accuracy": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    (run,) = found(tmp_path)[0].values()
    np.testing.assert_equal(run.columns["test/accuracy"], [np.nan, 0.5])
    assert run.total("upload_bytes").tolist() == [0, 0]


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    record(tmp_path)
    np.savez(tmp_path / "clients.npz", labels=np.array([[{}]], dtype=object))
    (run,) = found(tmp_path)[0].values()
    assert run.labels is None and run.remarks == ["clients.npz cannot be read"]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize("damage", [b'{"round": 2, "sec', b"\xff\xfe\x00", b""])
def test_a_damaged_line_is_named_and_costs_no_other(tmp_path: Path, damage: bytes) -> None:
    folder = record(tmp_path / "run", (0.5, 0.6, 0.7))
    lines = (folder / "metrics.jsonl").read_bytes().split(b"\n")
    (folder / "metrics.jsonl").write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    run = found(tmp_path)[0]["run"]
    assert run.columns["round"].tolist() == [1, 3] and run.columns["test/accuracy"].tolist() == [0.5, 0.7]
    assert run.remarks == ["metrics.jsonl: 1 of 3 lines cannot be read (2); the others are used"]
