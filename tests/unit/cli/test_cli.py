"""The ``fedrac`` command: what it writes, what it says, and how it goes on after it was stopped."""

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import TINY, facts, lines, weights
from runs import equal
from safetensors.torch import load_file

from fedrac import data, models
from fedrac.cli import commands, main
from fedrac.experiment import compose
from fedrac.experiment.settings import parse
from fedrac.flower import host
from fedrac.protocol.round_report import CohortFailure

FILES = {
    "config.yaml",
    "task.json",
    "versions.json",
    "metrics.jsonl",
    "summary.json",
    "checkpoint",
    "checkpoint.1",
    "best",
    "status.json",
}
FIELDS = {"round", "seconds", "cohort", "eta", "train/loss", "upload_bytes", "download_bytes"}
Command = Callable[..., None]


@pytest.fixture
def fedrac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(sys, "argv", ["fedrac", *arguments])
        main.main()

    return run


def stopped(fedrac: Command, *arguments: str) -> str:
    """What a command that fails says."""
    with pytest.raises(SystemExit) as caught:
        fedrac(*arguments)
    assert caught.value.code not in (0, None)
    return str(caught.value.code)


def failing_in(monkeypatch: pytest.MonkeyPatch, round_: int, error: BaseException) -> None:
    """From this round on, training raises."""
    train = host.train_cohort

    def training(*arguments: Any) -> Any:
        if arguments[-1] >= round_:
            raise error
        return train(*arguments)

    monkeypatch.setattr(host, "train_cohort", training)


def test_what_a_run_writes(fedrac: Command) -> None:
    fedrac(*TINY, "output_dir=out/one")
    assert {path.name for path in Path("out/one").iterdir()} == FILES
    first, last = lines("out/one")
    assert set(first) == FIELDS
    assert set(last) == {*FIELDS, "test/loss", "test/mse"}
    assert [first["round"], last["round"]] == [1, 2]
    assert all(len(line["cohort"]) == 3 and set(line["cohort"]) <= set(range(4)) for line in (first, last))
    numbers = 4 + 5  # rank 1, left: the inputs of two layers
    assert first["upload_bytes"] == 3 * 4 * numbers
    assert first["download_bytes"] == 0 < last["download_bytes"] < 3 * 4 * (5 * 4 + 5 + 3 * 5 + 3)
    summary = json.loads(Path("out/one/summary.json").read_text())
    assert summary["rounds"] == 2 and summary["upload_bytes"] == 2 * first["upload_bytes"]
    assert summary["last"]["test/loss"] == last["test/loss"] < summary["initial"]["test/loss"]
    assert json.loads(Path("out/one/versions.json").read_text())["torch"] == importlib.metadata.version("torch")


@pytest.mark.parametrize("method", ["fed_rac_lora", "asymm_lora"])
def test_weights_load_into_the_plain_model(fedrac: Command, method: str) -> None:
    """And predict as the last line says."""
    fedrac(*TINY, "output_dir=out", f"method={method}")
    experiment = parse(compose.load([*TINY]))
    model = models.build(experiment.model, seed=99)
    model.load_state_dict(weights("out"))
    test = data.load(experiment.data).test
    with torch.no_grad():
        errors = model(torch.tensor(test.inputs)) - torch.tensor(test.targets)
    assert errors.square().mean().item() == pytest.approx(lines("out")[-1]["test/mse"], rel=1e-5)


def test_what_is_written_runs_again(fedrac: Command) -> None:
    """The same command gives the same numbers."""
    for folder in ("a", "b"):
        fedrac(*TINY, f"output_dir={folder}")
    assert facts("a") == facts("b")
    equal(weights("a"), weights("b"))
    fedrac(*TINY, "output_dir=c", "seed=2")
    assert facts("a") != facts("c")


def test_an_earlier_run_is_not_overwritten(fedrac: Command) -> None:
    fedrac(*TINY, "output_dir=out")
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert "holds the results of another run" in stopped(fedrac, *TINY, "output_dir=out", "seed=2")
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_nothing_is_written_where_a_setting_is_wrong(fedrac: Command) -> None:
    for wrong, said in (
        ("rounds=0", "error: rounds=0 must be"),
        ("cohort.sise=3", "error: there is no key 'cohort.sise'; did you mean cohort.size"),
        ("cohort.size=5", "error: cohort.size=5 is larger than the population of 4 clients: set cohort.size=4"),
        ("model.inputs=7", "error: node 1 cannot serve: ValueError: an example has 4 entries"),
        ("adapt.layers={layer.0: 1}", "error: adapt.layers: 'layer.0' matches nothing in the model; near: layers.0"),
        ("data._target_=nowhere.to_be_found", "error: data._target_=nowhere.to_be_found cannot be used"),
        (
            "checkpoint.best=test/accuracy",
            "error: checkpoint.best='test/accuracy' is not tested; choose null or one of ",
        ),
        ("checkpoint.keep=0", "error: checkpoint.keep=0 must be at least 1"),
        ("guard.noise=1", "error: guard.noise=1.0 needs guard.clip"),
        ("guard.mean=krum", "error: guard.mean=krum with guard.hostile=1 needs at least 5 clients"),
        ("runtime.hosts=0", "error: runtime.hosts=0 must be"),
        ("resume=nowhere", "error: resume=nowhere: there is no nowhere/config.yaml"),
    ):
        assert stopped(fedrac, *TINY, "output_dir=out", wrong).startswith(said)
        assert not Path("out").exists()


@pytest.mark.parametrize("method", ["fed_rac_lora", "fedex_lora"])
def test_a_run_goes_on_as_if_it_had_not_stopped(fedrac: Command, method: str) -> None:
    fedrac(*TINY, f"method={method}", "output_dir=whole", "rounds=4")
    fedrac(*TINY, f"method={method}", "output_dir=parts")
    fedrac("resume=parts", "rounds=4")
    assert facts("parts") == facts("whole")
    equal(weights("parts"), weights("whole"))
    whole, parts = (json.loads(Path(folder, "summary.json").read_text()) for folder in ("whole", "parts"))
    assert {**whole, "seconds": 0, "download_bytes": 0} == {**parts, "seconds": 0, "download_bytes": 0}


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=["failure", "Ctrl-C"])
def test_a_run_that_stops_leaves_its_finished_rounds(
    fedrac: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fedrac(*TINY, "output_dir=whole", "rounds=4")
    with pytest.MonkeyPatch.context() as patch:
        failing_in(patch, 3, error)
        message = stopped(fedrac, *TINY, "output_dir=out", "rounds=4")
    if isinstance(error, KeyboardInterrupt):
        assert message == "stopped; finished rounds are on disk, go on with resume=DIR"
    else:
        assert message.startswith("error: round 3: 0 of 3 clients answered well")
        assert "RuntimeError: broken" in message
    assert [line["round"] for line in lines("out")] == [1, 2]
    assert json.loads(Path("out/checkpoint/state.json").read_text())["round"] == 2
    assert not Path("out/summary.json").exists()
    fedrac("resume=out")
    assert facts("out")[2:] == facts("whole")[2:]
    equal(weights("out"), weights("whole"))


@pytest.mark.parametrize("every", [2, 3, 5])
def test_rounds_between_checkpoints(fedrac: Command, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """A run that fails has one of its last finished round, and goes on as if it had not stopped."""
    fedrac(*TINY, "output_dir=whole", "rounds=6", "evaluate.every=9")
    settings = [*TINY, "rounds=6", "evaluate.every=9", f"checkpoint.every={every}", "checkpoint.keep=3"]
    with pytest.MonkeyPatch.context() as patch:
        failing_in(patch, 5, RuntimeError("broken"))
        stopped(fedrac, *settings, "output_dir=out")
    assert json.loads(Path("out/checkpoint/state.json").read_text())["round"] == 4
    fedrac("resume=out")
    assert facts("out") == facts("whole")
    equal(weights("out"), weights("whole"))
    assert sorted(path.name for path in Path("out").glob("checkpoint*"))[0] == "checkpoint"


def test_the_best_checkpoint(fedrac: Command) -> None:
    """It is that of the evaluated round with the best test result, however the run was cut."""
    settings = [*TINY, "evaluate.every=1", "local.lr=0.1", "checkpoint.best=test/mse"]
    fedrac(*settings, "output_dir=whole", "rounds=12")
    losses = [line["test/mse"] for line in lines("whole")]
    best = 1 + losses.index(min(losses))
    assert json.loads(Path("whole/best/state.json").read_text())["round"] == best < 12
    fedrac(*settings, "output_dir=parts", f"rounds={best}")
    shutil.rmtree("parts/best")  # the machine stopped before it was marked
    fedrac("resume=parts", "rounds=12")
    equal(load_file("parts/best/weights.safetensors"), load_file("whole/best/weights.safetensors"))


def test_a_run_that_stopped_between_its_line_and_its_checkpoint(fedrac: Command, tmp_path: Path) -> None:
    """The round is done again, and has one line."""
    fedrac(*TINY, "output_dir=whole", "rounds=3", "evaluate.every=1")
    fedrac(*TINY, "output_dir=out", "evaluate.every=1")
    with (tmp_path / "out/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": 3, "seconds": 1}) + '\n{"round": 4, "sec')
    fedrac("resume=out", "rounds=3")
    assert facts("out") == facts("whole")


def test_a_run_that_stopped_before_its_first_checkpoint(fedrac: Command) -> None:
    with pytest.MonkeyPatch.context() as patch:
        failing_in(patch, 1, CohortFailure("no"))
        stopped(fedrac, *TINY, "output_dir=out")
    status = json.loads(Path("out/status.json").read_text())
    assert (status["state"], status["round"]) == ("failed", 0) and "answered well" in status["error"]
    Path("out/metrics.jsonl").write_text('{"round": 1, "seconds": 1}\n')  # the machine stopped before its checkpoint
    fedrac("resume=out")
    fedrac(*TINY, "output_dir=whole")
    assert facts("out") == facts("whole")
    equal(weights("out"), weights("whole"))


def test_hosts_and_dtype(fedrac: Command) -> None:
    """Nodes in process change nothing but rounding."""
    for hosts in (1, 3):
        fedrac(*TINY, f"output_dir={hosts}", f"runtime.hosts={hosts}", "runtime.dtype=float64")
    equal(weights("3"), weights("1"), 1e-12)
    assert weights("1")["layers.0.weight"].dtype == torch.float64
    assert [line["cohort"] for line in lines("1")] == [line["cohort"] for line in lines("3")]


def test_a_model_of_ones_own(fedrac: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the folder where the command is given."""
    Path("my_own_model.py").write_text("from torch import nn\n\ndef make(width):\n    return nn.Linear(width, 3)\n")
    mine = ["model=custom", "model._target_=my_own_model.make", "+model.width=4", "output_dir=out"]
    fedrac(*[item for item in TINY if not item.startswith("model")], *mine)
    assert set(weights("out")) == {"weight", "bias"}
    monkeypatch.delitem(sys.modules, "my_own_model")


def test_what_is_printed(fedrac: Command, capsys: pytest.CaptureFixture[str]) -> None:
    fedrac(*TINY, "output_dir=out", "rounds=3")
    printed = capsys.readouterr().out
    assert "Fed-RAC-LoRA (left sketch), 3 rounds, cohorts of 3; upload per client and round: 9 numbers" in printed
    assert f"results go to {Path('out').absolute()}" in printed
    assert "before round 1: test loss" in printed
    assert "round 1/3" not in printed and "round 2/3" in printed and "round 3/3" in printed


def test_clients_that_were_left_out_are_printed(fedrac: Command, capsys: pytest.CaptureFixture[str]) -> None:
    train = host.train_cohort
    with pytest.MonkeyPatch.context() as patch:

        def training(problem: Any, first: Any, shards: Any, *rest: Any) -> Any:
            if any(shard.client == 0 for shard in shards):
                raise ValueError("no data")
            return train(problem, first, shards, *rest)

        patch.setattr(host, "train_cohort", training)
        fedrac(*TINY, "output_dir=out", "cohort.size=4", "cohort.min_fraction=0.75")
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("client 0: raised ValueError: no data") == 2  # once for each round
    assert "WARNING: round 1: node 1: client 0: raised ValueError: no data" in printed.err
    assert lines("out")[0]["refused"] == ["client 0: raised ValueError: no data"]


def test_help(fedrac: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fedrac("--help")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "fedrac [KEY=VALUE ...]" in printed and "method: asymm_lora, " in printed and "min_fraction" in printed
    for name, purpose in commands.COMMANDS.items():
        assert f"fedrac {name} " in printed and purpose in printed


def test_every_command_has_help(fedrac: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for name in commands.COMMANDS:
        with pytest.raises(SystemExit) as caught:
            fedrac(name, "--help")
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: fedrac {name} ")


def test_a_misspelt_command(fedrac: Command) -> None:
    said = stopped(fedrac, "statsu", "out")
    assert said.startswith("error: there is no command 'statsu'; did you mean fedrac status?")
    assert "the commands are " in stopped(fedrac, "cohort.size")
