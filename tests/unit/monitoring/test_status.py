"""Where a run stands, for programs and for people who look on: status.json, ``fedrac status``, the JSON log."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from fedrac.cli.commands.status import main
from fedrac.monitoring import status
from fedrac.monitoring.json_log import JsonLog
from fedrac.monitoring.progress import show_metrics
from fedrac.monitoring.status import Status
from fedrac.protocol.replies import Refusal
from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import Record


@pytest.fixture(autouse=True)
def every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PAUSE", 0.0)


def report(round_: int, **changes: Any) -> RoundReport:
    return RoundReport(round_, [1, 4, 6], 1.0, train_loss=0.5, **changes)


def values(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "status.json").read_text()))


def change(folder: Path, **changes: Any) -> None:
    (folder / "status.json").write_text(json.dumps({**values(folder), **changes}))


def test_from_begin_to_end(tmp_path: Path) -> None:
    with Status(tmp_path, 4, 2) as written:
        assert (values(tmp_path)["state"], values(tmp_path)["round"]) == ("running", 2)
        written.round(report(3, refused=[Refusal([4, 6], "no reply in time")]))
        now = status.read(tmp_path)
        assert (now["state"], now["round"], now["rounds"]) == ("running", 3, 4)
        assert now["clients"] == {"asked": 3, "good": 1}
        assert now["refused"] == ["clients 4, 6: no reply in time"]
        assert now["seconds_left"] >= 0 and 0 <= now["seconds_ago"] < 60
        written.round(report(4))
    assert (values(tmp_path)["state"], values(tmp_path)["seconds_left"]) == ("finished", 0.0)


@pytest.mark.parametrize(
    ("error", "state", "said"), [(RuntimeError("broken"), "failed", "broken"), (KeyboardInterrupt(), "stopped", None)]
)
def test_how_it_ended(tmp_path: Path, error: BaseException, state: str, said: str | None) -> None:
    with pytest.raises(type(error)), Status(tmp_path, 4, 0):
        raise error
    assert (values(tmp_path)["state"], values(tmp_path)["error"]) == (state, said)


def test_short_rounds_do_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PAUSE", 1e9)
    with Status(tmp_path, 4, 0) as written:
        written.round(report(1))
        assert values(tmp_path)["round"] == 0
    assert values(tmp_path)["round"] == 1


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    """It is told from one that lives, and from one on another machine, of which nothing is known."""
    with Status(tmp_path, 4, 0):
        assert status.read(tmp_path)["state"] == "running"
        change(tmp_path, process=2**22 + 1)
        assert status.read(tmp_path)["state"] == "dead"
        change(tmp_path, machine=platform.node() + "-other")
        assert status.read(tmp_path)["state"] == "running"
        change(tmp_path, process=os.getpid(), machine=platform.node())


def test_small_numbers_are_not_shown_as_zero() -> None:
    shown = show_metrics({"privacy/epsilon": 2.0, "privacy/delta": 1e-5, "test/loss": 0.0})
    assert shown == "privacy epsilon 2.0000  privacy delta 1e-05  test loss 0.0000"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record(tmp_path, "")
    with Status(tmp_path, 4, 0) as written:
        for round_, metrics in ((1, {"test/accuracy": 0.5}), (2, {})):
            record.add(report(round_, metrics=metrics))
            written.round(report(round_, refused=[Refusal([4], "no reply in time")]))
        assert main([str(tmp_path)]) == 0
        line, without = capsys.readouterr().out.splitlines()
        assert line.startswith("running: round 2/4, ") and " left; 2 of 3 clients good  test accuracy 50.0%" in line
        assert without == "  without client 4: no reply in time"
        assert main([str(tmp_path), "--max-age", "1000"]) == 0
        change(tmp_path, updated="2020-01-01T00:00:00+00:00")
        assert main([str(tmp_path), "--max-age", "1000"]) == 1
    capsys.readouterr()
    assert main([str(tmp_path), "--json", "--follow"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["metrics"]["test/accuracy"]) == ("finished", 0.5)


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_the_command_after_a_bad_end(tmp_path: Path, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Status(tmp_path, 4, 0):
        pass
    change(tmp_path, state=state, error="round 1: broken")
    assert main([str(tmp_path), "--follow"]) == 1
    printed = capsys.readouterr().out
    assert "round 1: broken" in printed and f"to go on: fedrac resume={tmp_path}" in printed


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the output_dir of a run that has begun"):
        main([str(tmp_path)])


def test_the_log_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line is that of metrics.jsonl, with the time and what it is."""
    record, refused = Record(tmp_path, ""), [Refusal([4], "no reply in time")]
    record.add(report(1, refused=refused, metrics={"test/loss": float("nan")}))
    JsonLog().round(report(1, refused=refused, metrics={"test/loss": float("nan")}))
    line = json.loads(capsys.readouterr().out)
    assert line.pop("event") == "round" and line.pop("time").endswith("+00:00")
    assert line == record.lines[0] and line["refused"] == ["client 4: no reply in time"]
