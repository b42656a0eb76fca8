"""Many runs as a table: a row for each, the settings that differ, and what they found."""

import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest
import twins

import fedrac

TINY = (*twins.COMMAND, "pretrain=none", "cohort.size=2", "rounds=2", "evaluate.every=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two learning rates, two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    for lr in (0.01, 0.02):
        for seed in (1, 2):
            fedrac.run(*TINY, f"local.lr={lr}", f"seed={seed}", f"output_dir={folder}/{lr}-{seed}", progress=False)
    return folder


def test_a_row_a_run(folder: Path) -> None:
    frame = fedrac.table(folder)
    assert frame.index.tolist() == ["0.01-1", "0.01-2", "0.02-1", "0.02-2"] and frame.index.name == "run"
    assert list(frame.columns[:3]) == ["local.lr", "seed", "method"]  # what differs, then the summary
    assert frame["local.lr"].tolist() == [0.01, 0.01, 0.02, 0.02] and frame["seed"].tolist() == [1, 2, 1, 2]
    for name, row in frame.iterrows():
        summary = fedrac.load(folder / str(name)).summary
        assert row["last.test/accuracy"] == summary["last"]["test/accuracy"]
        assert (row["upload_bytes"], row["rounds"]) == (summary["upload_bytes"], 2)


def test_it_is_ready_to_be_grouped(folder: Path) -> None:
    frame = fedrac.table(folder)
    means = frame.groupby("local.lr")["last.test/loss"].mean()
    assert means[0.01] == pytest.approx(frame["last.test/loss"].iloc[:2].mean())


def test_one_run_is_a_table_too(folder: Path) -> None:
    frame = fedrac.table(folder / "0.01-1")
    assert len(frame) == 1 and "local.lr" not in frame and frame["rounds"].iloc[0] == 2


def test_what_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    """A run that stopped has a row; one that cannot be read has none. Other files are nobody's business."""
    copy = shutil.copytree(folder, tmp_path / "sweep")
    (copy / "notes.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pd.testing.assert_frame_equal(fedrac.table(copy), fedrac.table(folder))
    (copy / "0.01-1" / "config.yaml").unlink()
    lines = (copy / "0.02-1" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "0.02-1" / "metrics.jsonl").write_text(lines[0])
    with pytest.warns(UserWarning) as told:
        frame = fedrac.table(copy)
    (warning,) = told
    assert "0.01-1: config.yaml is missing" in str(warning.message)
    assert "0.02-1: 1 of 2 rounds are finished" in str(warning.message)
    assert warning.filename == __file__
    assert frame["rounds"].to_dict() == {"0.01-2": 2, "0.02-1": 1, "0.02-2": 2}


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        fedrac.table(tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("seed: 1\nrounds: 3\n")
    with pytest.raises(ValueError, match=r"(?s)has no run with a finished round.*begun: metrics\.jsonl is missing"):
        fedrac.table(tmp_path)
