"""A run that is killed (SIGKILL) again and again, at random moments, ends as if it had never been."""

import json
import multiprocessing
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from runs import equal
from safetensors.torch import load_file

from fedrac.experiment.compose import load
from fedrac.experiment.run import in_process, run

KILLS, ROUNDS = 20, 260
SETTINGS = [
    *("data=linear_regression", "data.examples=40", "data.test_examples=10", "data.features=4", "data.outputs=3"),
    *("data.clients=2", "model=mlp", "model.inputs=4", "model.hidden=[5]", "model.outputs=3", "pretrain=none"),
    *("partition=size", "partition.clients=4", "cohort.size=3", "local.batch_size=4", f"rounds={ROUNDS}"),
    *("evaluate.every=3", "guard.clip=0.1", "guard.clip_quantile=0.5", "guard.noise=0.1", "guard.noise_seed=5"),
]


def go_on(folder: str) -> None:
    """The run, or the rest of it."""
    started = Path(folder, "config.yaml").exists()
    settings = load([f"resume={folder}"] if started else [*SETTINGS, f"output_dir={folder}"])
    run(settings, in_process(settings), Path(folder))


def start(folder: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fedrac.experiment.run", "flwr.clientapp"])
    process = context.Process(target=go_on, args=(str(folder),))
    process.start()
    return process


def written(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def facts(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    passing = ("seconds", "download_bytes")  # a server that starts again does not know what its nodes have
    return [{k: v for k, v in json.loads(line).items() if k not in passing} for line in lines]


@pytest.mark.slow
def test_killed_twenty_times(tmp_path: Path) -> None:
    """Weights bit for bit, record and best checkpoint; each kill hits another moment of a round or of the start."""
    whole, cut, moments = tmp_path / "whole", tmp_path / "cut", random.Random(1)
    undisturbed = start(whole)
    rounds = []
    for kill in range(KILLS):
        process, before = start(cut), written(cut)
        wanted = before + (moments.randrange(9) if kill % 5 else 0)  # every fifth one while it starts
        while written(cut) < wanted and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02 if kill % 5 else 0.5))
        assert process.is_alive(), "it ended before it could be killed"
        process.kill()
        process.join()
        rounds.append(written(cut))
    last = start(cut)
    for process in (last, undisturbed):
        process.join()
        assert process.exitcode == 0
    assert len(set(rounds)) > 5 and rounds[-1] < ROUNDS
    assert facts(cut) == facts(whole)
    for name in ("checkpoint", "best"):
        expected = load_file(whole / name / "weights.safetensors")
        equal(load_file(cut / name / "weights.safetensors"), expected)
        assert (cut / name / "state.json").read_text() == (whole / name / "state.json").read_text()
