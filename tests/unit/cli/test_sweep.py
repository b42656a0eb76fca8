"""Sweeps: the same runs as one by one, whatever stops in between."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import TINY, facts, weights
from runs import equal

from fedrac.cli import main, sweep
from fedrac.cli.sweep import worker
from fedrac.cli.sweep.cells import Status, prepare
from fedrac.experiment import compose
from fedrac.experiment.settings import ConfigError

MODEL_OF_ONES_OWN = """
import os, time
from pathlib import Path
from torch import nn

class Slow(nn.Linear):
    def forward(self, x):
        if Path("slow").exists():
            time.sleep(0.05)
        return super().forward(x)

def make(kind="good"):
    if kind == "exits":
        os._exit(3)
    if kind == "raises":
        raise KeyError("broken")
    return Slow(4, 3)
"""
OWN = [*(item for item in TINY if not item.startswith("model")), "model=custom", "model._target_=my_model.make"]


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("my_model.py").write_text(MODEL_OF_ONES_OWN)


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds."""
    monkeypatch.setattr(sweep, "show", lambda folder, output: None)


def learned(folder: str) -> list[dict[str, Any]]:
    """Without what was sent down: nodes of a new process hold nothing yet."""
    return [{name: value for name, value in line.items() if name != "download_bytes"} for line in facts(folder)]


def whole(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_runs_of_a_sweep_are_those_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the same command again runs nothing again."""
    arguments = ["fedrac", "-m", *TINY, "seed=1,2", "method=fed_rac_lora,asymm_lora", "sweep.dir=out", "sweep.jobs=2"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "4 of 4 runs are finished" in said and re.search(r"method +seeds .*test mean squared error", said)
    assert "Fed-RAC-LoRA" in Path("out/report/report.html").read_text()
    cells = {f"seed={seed},method={method}" for seed in (1, 2) for method in ("fed_rac_lora", "asymm_lora")}
    assert {path.parent.name for path in Path("out").rglob("summary.json")} == cells
    monkeypatch.setattr(sys, "argv", ["fedrac", *TINY, "seed=2", "method=asymm_lora", "output_dir=alone"])
    main.main()
    assert facts("out/seed=2,method=asymm_lora") == facts("alone") != facts("out/seed=1,method=asymm_lora")
    equal(weights("out/seed=2,method=asymm_lora"), weights("alone"))
    before = {path: content for path, content in whole("out").items() if path.parent.name in cells}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "show", lambda folder, output: None)
        assert sweep.main(arguments[2:]) == 0
    assert "4 runs, 4 of them finished before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("_no_report")
def test_a_run_that_fails_costs_only_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it raises or takes its process with it; what it said is told at the end, and stays with it."""
    kinds = "+model.kind=exits,raises,good"
    assert sweep.main([*OWN, kinds, "sweep.dir=out"]) == 1
    said = capsys.readouterr()
    assert "failed: +model.kind=exits\n  its process ended with exit code 3" in said.err.replace(
        "model.kind", "+model.kind", 1
    )
    assert "KeyError: 'broken'" in said.err and "model.kind=good" not in said.err
    assert "1 of 3 runs are finished" in said.out
    assert "broken" in Path("out/model.kind=raises/error.txt").read_text()
    assert [line["round"] for line in facts("out/model.kind=good")] == [1, 2]


@pytest.mark.parametrize(
    ("given", "jobs"), [([], 3), (["sweep.jobs=null"], 3), (["sweep.jobs=2"], 2), (["sweep.jobs=9"], 4)]
)
@pytest.mark.usefixtures("_no_report")
def test_as_many_runs_at_a_time_as_there_are_cores_or_as_is_said(
    given: list[str], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(sweep, "cores", lambda: 3)
    monkeypatch.setattr(sweep, "run_all", lambda cells, jobs, watcher: asked.append(jobs))
    sweep.main([*TINY, "seed=1,2,3,4", "sweep.dir=out", *given])
    assert asked == [jobs]


def test_wrong_values_are_found_before_any_run() -> None:
    with pytest.raises(ConfigError) as caught:
        sweep.main([*TINY, "rounds=0,1", "local.lr=-1,0.1,0.2", "sweep.dir=out"])
    said = str(caught.value)
    assert said.startswith("4 of the sweep's cells cannot run, and none was started:")
    assert "rounds=0,local.lr=0.1: rounds=0 must be" in said and "rounds=1,local.lr=-1: " in said
    assert "rounds=1,local.lr=0.1" not in said
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sed=1,2", "there is no key 'sed'; did you mean seed"),
        ("output_dir=x", "sweep.dir=DIR"),
        ("resume=x", "the same command goes on"),
        ("hydra.sweep.dir=x", "use sweep.dir=DIR"),
        ("sweep.jobs=0", "sweep.jobs=0 must be"),
        ("sweep.job=2", "there is no key 'sweep.job'; did you mean sweep.jobs"),
        ("sweep.dir=7", "sweep.dir=7 must be a folder"),
        ("method=fedavg,fedav", "fedav"),
        ("local.lr=interval(0,1)", "local.lr=interval(0,1): list the values"),
        ("--quiet", "--quiet: with -m there are only settings"),
    ],
)
def test_what_a_sweep_does_not_take(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        prepare([*TINY, "seed=1,2", override])
    assert not Path("outputs").exists()


def cells(*overrides: str) -> dict[str, Status]:
    return {cell.name: cell.status for cell in prepare([*TINY, *overrides])[1]}


def test_every_combination() -> None:
    assert list(cells("seed=range(3)", "method=fedavg,fed_rac_lora", "rounds=3,3")) == [
        f"seed={seed},method={method},rounds=3" for seed in range(3) for method in ("fedavg", "fed_rac_lora")
    ]
    every = [path.stem for path in Path(compose.config_dir(), "method").iterdir()]
    assert len(cells("method=glob(*,exclude=custom)")) == len(every) - 1  # which has no class to begin with


def test_an_experiment_can_hold_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(compose.config_dir(), "conf")
    params = "{seed: '1,2', server.eta: '1.0,0.5', sketch.law: haar}"
    Path("conf/experiment/grid.yaml").write_text(f"# @package _global_\nhydra: {{sweeper: {{params: {params}}}}}\n")
    monkeypatch.setattr(compose, "config_dir", Path("conf").absolute)
    both = [f"seed={seed},server.eta={eta}" for seed in (1, 2) for eta in ("1.0", "0.5")]
    assert list(cells("experiment=grid")) == both
    assert all(cell.settings.sketch.law == "haar" for cell in prepare([*TINY, "experiment=grid"])[1])
    assert list(cells("experiment=grid", "seed=7")) == ["server.eta=1.0", "server.eta=0.5"]


def test_a_sweep_is_found_again_and_can_be_extended() -> None:
    def folder(*overrides: str) -> str | None:
        return prepare([*TINY, *overrides])[0].dir

    first = folder("seed=1,2")
    assert first == folder("seed=1,2,3", "sweep.jobs=2") == folder("seed=5,2")
    assert len({first, folder("seed=1,2", "rank=2"), folder("rank=1,2"), folder("seed=1,2", "rank=3")}) == 4


def test_names_that_are_no_folder_names() -> None:
    long = "data.test_path=" + "x" * 300
    spec, found = prepare([*TINY, "+data.path=/a,/b", "+" + long])
    folders = [Path(cell.settings.output_dir) for cell in found]
    assert len({*folders}) == 2 and all(str(path.parent) == spec.dir for path in folders)
    deep = prepare([*TINY, "+" + long + ",y" + "x" * 300])[1]
    names = [Path(cell.settings.output_dir).name for cell in deep]
    assert len({*names}) == 2 and max(map(len, names)) < 200


def test_what_is_there_of_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(prepare([*TINY, "seed=1,2", "sweep.dir=out"])[1][0].settings.output_dir)
    assert cells("seed=1", "sweep.dir=out") == {"cell": Status.NEW}
    monkeypatch.setattr(sys, "argv", ["fedrac", *TINY, "seed=1", f"output_dir='{place.name}'"])
    main.main()
    shutil.copytree(place.name, place)
    assert cells("seed=1,2", "sweep.dir=out") == {"seed=1": Status.FINISHED, "seed=2": Status.NEW}
    with pytest.raises(ConfigError, match=r"seed=1 holds a run with other settings \(rounds=2 there, 3 here\)"):
        cells("seed=1,2", "sweep.dir=out", "rounds=3")
    (place / "summary.json").write_text(json.dumps({"rounds": 1}))
    assert cells("seed=1,2", "sweep.dir=out")["seed=1"] is Status.BEGUN
    (place / "summary.json").write_text("{")
    assert cells("seed=1,2", "sweep.dir=out")["seed=1"] is Status.BEGUN
    (place / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"seed=1 holds a run without config.yaml"):
        cells("seed=1,2", "sweep.dir=out")


def test_one_sweep_at_a_time_in_a_folder() -> None:
    with sweep.locked(Path("out"), "runs it"), pytest.raises(BlockingIOError, match="another process runs this sweep"):
        sweep.main([*TINY, "seed=1,2", "sweep.dir=out"])


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_stopped_before_its_first_checkpoint_starts_again() -> None:
    cell = prepare([*TINY, "sweep.dir=out"])[1][0]
    worker.outcome(compose.to_yaml(cell.settings), lambda event: None)
    before = learned("out/cell")
    for name in ("checkpoint", "checkpoint.1", "best"):
        shutil.rmtree(f"out/cell/{name}", ignore_errors=True)
    Path("out/cell/summary.json").unlink()
    kind, _ = worker.outcome(compose.to_yaml(cell.settings), lambda event: None)
    assert kind == "finished" and learned("out/cell") == before


@pytest.mark.slow
@pytest.mark.usefixtures("_no_report")
def test_an_interrupted_sweep_goes_on() -> None:
    """No round is run twice but the one under way, and all is as if nothing had happened."""
    overrides = [*OWN, "rounds=60", "evaluate.every=1", "seed=1,2,3", "sweep.dir=out"]
    command = [sys.executable, "-m", "fedrac", "-m", *overrides]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    listen = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # tests in the background ignore Ctrl-C
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE, preexec_fn=listen
    )
    until(lambda: Path("out/seed=1/summary.json").exists())
    Path("slow").touch()
    begun = Path("out/seed=2/checkpoint")
    until(begun.exists)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search("stopped; [0-2] of 3 runs are finished", said)  # one that has just finished may not be counted yet
    until(lambda: not is_alive(process.pid))
    Path("slow").unlink()
    finished, rounds = whole("out/seed=1"), json.loads((begun / "state.json").read_text())["round"]
    kept = Path("out/seed=2/metrics.jsonl").read_text().splitlines()[:rounds]
    assert sweep.main(overrides) == 0
    assert whole("out/seed=1") == finished
    assert Path("out/seed=2/metrics.jsonl").read_text().splitlines()[:rounds] == kept
    assert sweep.main([*overrides[:-1], "sweep.dir=whole"]) == 0
    for seed in (1, 2, 3):
        assert learned(f"out/seed={seed}") == learned(f"whole/seed={seed}")
        equal(weights(f"out/seed={seed}"), weights(f"whole/seed={seed}"))


def test_a_run_that_diverges_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    """It has a summary, and is not run again."""
    sweep_ = [*TINY, "rounds=20", "local.optimizer=sgd", "local.lr=0.001,100.0", "sweep.dir=out"]
    assert sweep.main(sweep_) == 0
    assert "local.lr=100.0  diverged after round " in capsys.readouterr().out
    summaries = {path.parent.name: json.loads(path.read_text()) for path in Path("out").rglob("summary.json")}
    assert {name: found["diverged"] for name, found in summaries.items()} == {
        "local.lr=0.001": False,
        "local.lr=100.0": True,
    }
    assert sweep.main(sweep_) == 0
    assert "2 runs, 2 of them finished before" in capsys.readouterr().out
