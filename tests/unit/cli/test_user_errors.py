"""What a person can get wrong, or a disk: one line that says what, an exit code, never a traceback."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import TINY, facts
from flwr.app import Context, RecordDict
from safetensors import SafetensorError

import server_app
from fedrac.cli import main, sweep
from fedrac.cli.sweep import worker
from fedrac.experiment import compose
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.monitoring.errors import OneLine, RunFailed, told
from fedrac.results import snapshot
from fedrac.results.lock import locked

Command = Callable[..., str]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """What a command says that must fail, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(sys, "argv", ["fedrac", *arguments])
        with pytest.raises(SystemExit) as caught:
            main.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert isinstance(caught.value.code, str) and caught.value.code.startswith("error: ")
        assert "\n" not in caught.value.code
        return caught.value.code

    return run


SETTINGS = {
    "cohort.size=1e10": "cohort.size=10000000000 must be at least 1, and at most",
    "cohort.size=1e9": "cohort.size=1000000000 is larger than the population of 4",
    "local.eps=-1": "local.eps=-1.0 must be positive",
    "local.betas=[2,3]": "local.betas=(2.0, 3.0) must lie in [0, 1)",
    "local.weight_decay=inf": "local.weight_decay=inf must not be negative, nor infinite",
    "local.clip=inf": "local.clip=inf must be positive and finite",
    "server.eta=inf": "server.eta=inf must be positive and finite",
    "adapt.alpha=inf": "adapt.alpha=inf must be positive and finite",
    "server.schedule.decay=nan": "schedule.decay=nan must be finite",
    "++guard={clip: 0.1, noise: 1e300}": "guard.noise=1e+300 must be 0, or lie in",
    "++guard={clip: 0.1, noise: 1e-300}": "guard.noise=1e-300 must be 0, or lie in",
    "++guard={clip: 0.1, noise_seed: 1e30, noise: 1}": "guard.noise_seed",
}


@pytest.mark.parametrize(("setting", "said"), SETTINGS.items(), ids=SETTINGS)
def test_absurd_values(failing: Command, setting: str, said: str) -> None:
    """Found at once, before anything is written; none hangs."""
    assert said in failing(*TINY, "output_dir=out", setting)
    assert not Path("out").exists()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run of two rounds, to be gone on with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedrac", *TINY, "output_dir=out"])
    main.main()
    return Path("out")


@pytest.mark.parametrize(
    "text", [b"a text", b"[1, 2]", b"{", b"a: [", b"\xff\xfe\x00", b"", b"seed: 1", b"1: 2\nseed: 1", b"a: ${b"]
)
def test_a_config_that_is_none(begun: Path, failing: Command, text: bytes) -> None:
    (begun / "config.yaml").write_bytes(text)
    for command in (["resume=out"], ["export", "out", "--to", "safetensors"]):
        assert "config.yaml is" in failing(*command), command
    with pytest.raises(compose.ConfigError, match=r"config.yaml is"):
        sweep.cells._status(begun, compose.load([*TINY]))


def test_a_run_that_lives_is_left_alone(begun: Path, failing: Command) -> None:
    """It can be looked at meanwhile."""
    before = facts("out")
    with locked(begun, "runs there"):
        said = failing("resume=out", "rounds=3")
        assert "out is in use: another process runs there; fedrac status" in said
        sys.argv = ["fedrac", "status", "out"]
        with pytest.raises(SystemExit) as caught:
            main.main()
        assert caught.value.code == 0
    assert facts("out") == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_inside_a_checkpoint(
    begun: Path, failing: Command, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Finished rounds stay, the part that was written goes, and the run goes on when there is room."""

    def full(_: Any, path: Path, *__: Any) -> None:
        Path(path).write_bytes(b"a part")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "save_file", full)
        said = failing("resume=out", "rounds=3")
    assert "out does not take a checkpoint: " in said and "No space left" in said
    assert not list(begun.glob("*.new")) and json.loads((begun / "status.json").read_text())["state"] == "failed"
    monkeypatch.setattr(sys, "argv", ["fedrac", "resume=out", "rounds=3"])
    main.main()
    assert [line["round"] for line in facts("out")] == [1, 2, 3]


def broken() -> torch.nn.Module:
    """A model of one's own with a mistake."""
    return {}["missing"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("error", [OverflowError(34, "range"), KeyError("k"), AssertionError(), TypeError("a\nb")])
def test_what_nobody_wrote_a_message_for(failing: Command, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Its kind, and where it was raised."""

    def raising(*_: Any) -> None:
        raise error

    monkeypatch.setattr("fedrac.experiment.run.prepare", raising)
    said = failing(*TINY, "output_dir=out")
    assert said.startswith(f"error: {type(error).__name__}: ") and "test_user_errors.py:" in said
    outcome = worker.outcome(compose.to_yaml(compose.load([*TINY, "output_dir=cell"])), lambda _: None)
    assert outcome[0] == "failed" and outcome[1].startswith(f"{type(error).__name__}: ")


def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FEDRAC_TRACEBACK", "1")
    try:
        broken()
    except KeyError as error:
        assert told(error).startswith("KeyError: 'missing' (")
    assert "Traceback" in (shown := capsys.readouterr().err) and "in broken" in shown


def test_a_run_on_flower_ends_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What Flower is told has the message, and its log of it no traceback."""
    overrides = f"{' '.join(TINY)} output_dir={tmp_path / 'out'} local.eps=-1"
    context = Context(1, 0, {}, RecordDict(), {"preset": "", "overrides": overrides})
    flower = logging.getLogger("flwr")
    try:
        with pytest.raises(RunFailed, match=r"local.eps=-1.0 must be positive and finite") as caught:
            server_app.main(InProcessGrid(client_app.app), context)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        record = flower.makeRecord("flwr", logging.ERROR, "", 0, "%s raised", ("ServerApp",), caught._excinfo)
        assert flower.filter(record) and record.exc_info is None
        assert record.getMessage().startswith("error: local.eps=-1.0 must be")
        other = flower.makeRecord("flwr", logging.ERROR, "", 0, "it", (), (ValueError, ValueError("x"), None))
        assert flower.filter(other) and other.exc_info is not None
    finally:
        for added in [each for each in flower.filters if isinstance(each, OneLine)]:
            flower.removeFilter(added)
