"""Runs as objects: those of the command, and those that lie in folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import twins
from runs import equal
from safetensors.torch import load_file

import fedrac
from fedrac.experiment.settings import ConfigError
from fedrac.flower import host
from fedrac.protocol.round_report import Divergence
from fedrac.results.record import read_metrics

TINY = (*twins.COMMAND, *twins.SHORT, "pretrain=none", "cohort.size=3")


def made(folder: Path, *overrides: str) -> fedrac.Run:
    return fedrac.run(*TINY, f"output_dir={folder}", *overrides, progress=False)


def test_run_returns_what_the_command_writes(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    assert run.folder == tmp_path / "run"
    assert run.summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert run.config["cohort"]["size"] == 3
    equal(twins.weights(run.model), load_file(tmp_path / "run" / "checkpoint" / "weights.safetensors"))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert list(run.history.columns) == list(dict.fromkeys(name for line in lines for name in line))
    for row, line in zip(run.history.iloc[1:].to_dict("records"), lines, strict=True):
        assert {name: row[name] for name in line} == line
        assert all(np.isnan(row[name]) for name in row.keys() - line.keys())
    first = run.history.iloc[0]
    assert {name: first[name] for name in run.summary["initial"]} == run.summary["initial"]


def test_run_says_what_the_command_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fedrac.run(*TINY, f"output_dir={tmp_path / 'a'}")
    assert f"results: {tmp_path / 'a'}" in capsys.readouterr().out
    made(tmp_path / "b")
    assert capsys.readouterr().out == ""


def test_run_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    for wrong, said in (("cohort.sise=3", "did you mean cohort.size"), ("rounds=0", "rounds=0 must be")):
        with pytest.raises(ConfigError, match=said):
            made(tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()


def test_load_is_the_same_object(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    again = fedrac.load(str(tmp_path / "run"))
    assert (again.summary, again.config, again.lines) == (run.summary, run.config, run.lines)
    equal(twins.weights(again.model), twins.weights(run.model))
    assert "3 of 3 rounds" in repr(again) and "test/accuracy=" in repr(again)


def test_a_run_goes_on(tmp_path: Path) -> None:
    made(tmp_path / "run", "rounds=2")
    longer = fedrac.run(f"resume={tmp_path / 'run'}", "rounds=3", progress=False)
    equal(twins.weights(longer.model), twins.weights(made(tmp_path / "whole").model))
    assert longer.history["round"].tolist() == [0, 1, 2, 3]


def test_a_run_that_goes_on_is_read_as_far_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in the middle of round 3; the metrics before round 1 are known although no summary is there."""
    train, seen = host.train_cohort, []

    def look(*arguments: Any) -> Any:
        if arguments[-1] == 3:
            seen.append(fedrac.load(tmp_path / "run"))
            seen[0].history, seen[0].model
        return train(*arguments)

    monkeypatch.setattr(host, "train_cohort", look)
    whole = made(tmp_path / "run")
    (running,) = seen
    assert running.history["round"].tolist() == [0, 1, 2] and "2 of 3 rounds" in repr(running)
    assert running.summary["initial"] == whole.summary["initial"]
    assert running.summary["last"]["test/loss"] == whole.history["test/loss"][2]
    assert not torch.equal(running.model[0].weight, whole.model[0].weight)


def test_an_older_summary_does_not_count(tmp_path: Path) -> None:
    """That of a run which has gone on since; its metrics before round 1 are the same."""
    run = made(tmp_path / "run")
    old = {**run.summary, "rounds": 1, "upload_bytes": 1}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(old))
    (tmp_path / "run" / "status.json").unlink()
    assert fedrac.load(tmp_path / "run").summary == run.summary


def test_a_diverged_run(tmp_path: Path) -> None:
    with pytest.raises(Divergence):
        made(tmp_path / "run", "method=fedavg", "local=sgd", "local.lr=1e30")
    run = fedrac.load(tmp_path / "run")
    assert run.summary["diverged"] and run.history["round"].iloc[0] == 0


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.yaml: give the output_dir of a run"):
        fedrac.load(tmp_path)


def test_the_model_of_a_fit_s_folder(tmp_path: Path) -> None:
    net, folder = twins.net(), tmp_path / "run"
    run = fedrac.fit(net, twins.clients(), twins.held_out(), overrides=twins.SHORT, output_dir=folder, progress=False)
    bare = fedrac.load(folder)
    assert bare.summary == run.summary and bare.history.equals(run.history)
    with pytest.raises(ValueError, match=r"fedrac\.load\(folder, model=net\) takes the model once more"):
        _ = bare.model
    with torch.no_grad():
        net[0].weight.zero_()  # the architecture is all that counts
    equal(twins.weights(fedrac.load(folder, model=net).model), twins.weights(run.model))
    assert not net[0].weight.any()
    with pytest.raises(ValueError, match="model=Linear is not the run's architecture"):
        _ = fedrac.load(folder, model=torch.nn.Linear(6, 3)).model
