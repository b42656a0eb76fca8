"""What a run leaves behind is whole and readable, whenever it was stopped."""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fedrac.monitoring.status import Status
from fedrac.protocol.replies import Refusal
from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import Record, read_metrics, versions, write_atomically

DESIGN = {"round", "seconds", "cohort", "eta", "train/loss", "upload_bytes", "download_bytes"}


def report(round_: int, **changes: Any) -> RoundReport:
    values = {"train_loss": 1.0 / round_, "upload_bytes": 10, "download_bytes": 100, "seconds": 0.5}
    return RoundReport(round_, [1, 4], 0.9, **{**values, **changes})


def finished(folder: Path, rounds: int) -> Record:
    record = Record(folder, "a: 1\n")
    for round_ in range(1, rounds + 1):
        record.add(report(round_))
    return record


def rounds(folder: Path) -> list[int]:
    return [line["round"] for line in read_metrics(folder / "metrics.jsonl")]


def test_a_line_a_round(tmp_path: Path) -> None:
    record = Record(tmp_path / "deep" / "er", "a: 1\n")
    record.add(report(1))
    record.add(report(2, metrics={"test/loss": 0.25}, refused=[Refusal([4], "raised it")]))
    first, second = map(json.loads, (tmp_path / "deep" / "er" / "metrics.jsonl").read_text().splitlines())
    assert set(first) == DESIGN
    assert first["cohort"] == [1, 4] and first["train/loss"] == 1.0 and first["eta"] == 0.9
    assert second["test/loss"] == 0.25 and second["refused"] == ["client 4: raised it"]


def test_each_line_is_on_disk_after_its_round(tmp_path: Path) -> None:
    record = Record(tmp_path, "")
    for round_ in (1, 2, 3):
        record.add(report(round_))
        assert rounds(tmp_path) == list(range(1, round_ + 1))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, kept: float) -> None:
    finished(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    *whole, last = path.read_text().splitlines()
    path.write_text("\n".join([*whole, last[: math.ceil(kept * len(last)) - 1]]))
    assert rounds(tmp_path) == [1, 2]
    record = Record(tmp_path, "", finished=2)
    record.add(report(3))
    assert rounds(tmp_path) == [1, 2, 3]


def test_rounds_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    """A run that stopped between its line and its checkpoint does the round again: one line a round."""
    finished(tmp_path, 5)
    record = Record(tmp_path, "b: 2\n", finished=3)
    record.add(report(4, upload_bytes=7))
    assert rounds(tmp_path) == [1, 2, 3, 4]
    summary = record.summarise("m", {})
    assert (summary["rounds"], summary["upload_bytes"]) == (4, 37)
    assert (tmp_path / "config.yaml").read_text() == "b: 2\n"


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=rf"holds the results of another run: .* resume={tmp_path}"):
        Record(tmp_path, "other: 1\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_summary(tmp_path: Path) -> None:
    record = Record(tmp_path, "")
    for round_, (loss, accuracy) in enumerate([(3.0, 0.5), (1.0, 0.75), (2.0, 0.625)], 1):
        record.add(report(round_, train_loss=loss, metrics={"test/loss": loss, "test/accuracy": accuracy}))
    record.add(report(4, train_loss=2.5))
    summary = record.summarise("Name", {"test/loss": 9.0})
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["last"] == {"train/loss": 2.5, "test/loss": 2.0, "test/accuracy": 0.625}
    assert summary["best"] == {"train/loss": 1.0, "test/loss": 1.0, "test/accuracy": 0.75}
    assert (summary["method"], summary["rounds"], summary["initial"]) == ("Name", 4, {"test/loss": 9.0})
    assert (summary["upload_bytes"], summary["download_bytes"], summary["seconds"]) == (40, 400, 2.0)


def test_versions_of_what_the_numbers_depend_on(tmp_path: Path) -> None:
    Record(tmp_path, "")
    found = json.loads((tmp_path / "versions.json").read_text())
    assert found == versions() and {"fedrac", "flwr", "torch", "numpy", "python", "machine"} <= set(found)


class Crash(BaseException):
    pass


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):

        def stop(*_: Any) -> None:
            raise Crash

        patch.setattr(*((os, "fsync") if name == "fsync" else (Path, "replace")), stop)
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    write_atomically(path, "newer")
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "newer"


def test_others_may_read_what_the_user_lets_them(tmp_path: Path) -> None:
    """As for any file that is opened for writing: by the user's umask."""
    finished(tmp_path, 1).summarise("m", {})
    plain = tmp_path / "plain"
    plain.write_text("")
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {stat.S_IMODE(plain.stat().st_mode)}


def damage(folder: Path, number: int, text: str) -> str:
    """Puts ``text`` in the place of a line; returns what the file has then."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")
    return path.read_text()


@pytest.mark.parametrize("text", ['{"round": 2, "sec', "", "[]", "null", '{"round": "2"}', '{"round": 2}', "\x00" * 9])
def test_a_damaged_line_costs_no_other_line(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    """The run goes on, says which line it is, and leaves the whole file beside the new one."""
    finished(tmp_path, 5)
    before = damage(tmp_path, 2, text)
    assert rounds(tmp_path) == [1, 3, 4, 5] and "line 2 cannot be read" in caplog.text
    record = Record(tmp_path, "", finished=5)
    record.add(report(6))
    assert rounds(tmp_path) == [1, 3, 4, 5, 6]
    assert (tmp_path / "metrics.damaged.jsonl").read_text() == before
    assert "metrics.damaged.jsonl has them all" in caplog.text and "has no line of round 2" in caplog.text
    assert record.summarise("m", {})["upload_bytes"] == 50


def test_rounds_that_only_the_checkpoint_has_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A machine that lost its power has what was written last in one file and not in the other."""
    finished(tmp_path, 3)
    Record(tmp_path, "", finished=5)
    assert "has no line of round 4, 5, which the checkpoint has" in caplog.text


def test_a_file_of_damaged_lines_alone_is_another_run_s(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("not ours\n")
    with pytest.raises(FileExistsError):
        Record(tmp_path, "")
    assert (tmp_path / "metrics.jsonl").read_text() == "not ours\n"


def strict(path: Path) -> Any:
    """JSON as other programs read it: Python's own reader takes NaN and Infinity, which are none."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_written_is_json_whatever_the_numbers_are(tmp_path: Path, value: float) -> None:
    record = Record(tmp_path, "")
    record.add(report(1, train_loss=value, metrics={"clients/loss": value}, guard={"guard/length": value}))
    assert strict(tmp_path / "metrics.jsonl")["clients/loss"] is None
    assert strict(tmp_path / "metrics.jsonl")["train/loss"] is None
    record.summarise("m", {"test/loss": value})
    assert strict(tmp_path / "summary.json")["initial"] == {"test/loss": None}
    with Status(tmp_path, 1, 0) as status:
        status.round(report(1, metrics={"clients/loss": value}))
    strict(tmp_path / "status.json")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_atomically(tmp_path / "file", "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if name == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new and longer")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


def test_what_a_killed_process_left_unfinished_is_gone_after_the_next_start(tmp_path: Path) -> None:
    def die(_: int) -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, "fsync", die)
        write_atomically(tmp_path / "status.json", "{}")
    assert len(list(tmp_path.iterdir())) == 1
    Record(tmp_path, "seed: 1")
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "metrics.jsonl", "versions.json"}
