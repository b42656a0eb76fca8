"""A run that is killed or runs out of disk again and again, at random moments, ends as if it had never been."""

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from runs import equal
from safetensors import SafetensorError
from safetensors.torch import load_file

from fedrac.cli import main
from fedrac.results import checkpoint, round_log, snapshot

# Twelve stops a run, in two runs, take half a minute; thorough, fifty.
PARTS, POINTS = 2, 50 if os.environ.get("FEDRAC_THOROUGH") else 12
ROUNDS = 10 * POINTS
STEPS = {"append": 6, "save": 14}  # waits for the disk and renames: those of six appends, of two whole checkpoints
FULL = ("anything", "file", "tensors")  # what the disk does not take
SETTINGS = [
    *("data=linear_regression", "data.examples=40", "data.test_examples=10", "data.features=4", "data.outputs=3"),
    *("data.clients=2", "model=mlp", "model.inputs=4", "model.hidden=[5]", "model.outputs=3", "pretrain=none"),
    *("partition=size", "partition.clients=4", "cohort.size=3", "local.batch_size=4", f"rounds={ROUNDS}"),
    *("evaluate.every=3", "guard.clip=0.1", "guard.clip_quantile=0.5", "guard.noise=0.1", "guard.noise_seed=5"),
]


def go_on(folder: str, trouble: str | None = None, after: int = 0, seed: int = 0) -> None:
    """The run, or the rest of it, as the command does it; on a disk that fills up after some rounds, or until it dies
    at a step of what it does to its checkpoints.
    """
    with open(f"{folder}.log", "w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    if trouble in STEPS:
        die_in(trouble, after, random.Random(seed))
    elif trouble is not None:
        threading.Thread(target=fill, args=(Path(folder), trouble, after, random.Random(seed)), daemon=True).start()
    started = Path(folder, "config.yaml").exists()
    sys.argv = ["fedrac", *([f"resume={folder}"] if started else [*SETTINGS, f"output_dir={folder}"])]
    main.main()


def fill(folder: Path, what: str, after: int, moments: random.Random) -> None:
    """From now on the disk takes no more: of files that grow, of files that are written anew, or of tensors."""
    while written(folder) < after:
        time.sleep(0.001)
    if what == "anything":  # the line of a round is cut off somewhere
        size = (folder / "metrics.jsonl").stat().st_size if after else 0
        limit = size + moments.randrange(400)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    elif what == "file":
        left = [moments.randrange(12)]
        keep = os.fsync

        def fsync(number: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            keep(number)

        os.fsync = fsync
    else:

        def save_file(_: Any, path: Path) -> None:
            path.write_bytes(b"a part")
            raise SafetensorError("Error while serializing: I/O error: No space left on device")

        snapshot.save_file = save_file  # type: ignore[assignment]


def die_in(name: str, step: int, moments: random.Random) -> None:
    """Kill -9 where ``checkpoint.NAME`` waits for the disk or renames for the ``step``-th time; of what it appended, a
    part is there.
    """
    done, sync, rename, before = getattr(checkpoint, name), os.fsync, Path.rename, [-1]
    left = [step]

    def within(folder: Path, *given: Any) -> Any:
        log = folder / "checkpoint" / round_log.FILE
        before[0] = log.stat().st_size if log.exists() else 0
        result = done(folder, *given)
        before[0] = -1
        return result

    def reached(handle: int | None = None) -> None:
        left[0] -= before[0] >= 0
        if before[0] >= 0 and left[0] == 0:
            if name == "append" and handle is not None:
                os.ftruncate(handle, moments.randint(before[0], os.fstat(handle).st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(handle: int) -> None:
        reached(handle)
        sync(handle)

    def renamed(path: Path, to: Path) -> Path:
        reached()
        return rename(path, to)

    setattr(checkpoint, name, within)
    os.fsync, Path.rename = fsync, renamed  # type: ignore[assignment, method-assign]


# What a run imports on its way: a process that has it starts in a third of the time.
IMPORTS = ["fedrac.experiment.run", "fedrac.api", "fedrac.data.synthetic", "fedrac.data.tasks.regression"]
IMPORTS += ["flwr.clientapp", "dp_accounting", "sympy", "hydra.main", "torch.fx.experimental.symbolic_shapes"]


def start(folder: Path, *trouble: Any) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTS, "test_killed"])
    process = context.Process(target=go_on, args=(str(folder), *trouble))
    process.start()
    return process


def written(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def facts(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    passing = ("seconds", "download_bytes")  # a server that starts again does not know what its nodes have
    return [{k: v for k, v in json.loads(line).items() if k not in passing} for line in lines]


def kill(folder: Path, moments: random.Random, starting: bool) -> None:
    """In the middle of a round, or while it starts."""
    process, before = start(folder), written(folder)
    wanted = before + (0 if starting else moments.randrange(9))
    while written(folder) < wanted and process.is_alive():
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.5 if starting else 0.02))
    assert process.is_alive(), "it ended before it could be killed"
    process.kill()
    process.join()


def kill_in(folder: Path, moments: random.Random, name: str) -> None:
    """While a checkpoint is written."""
    process = start(folder, name, moments.randint(1, STEPS[name]), moments.randrange(10**6))
    process.join()
    assert process.exitcode == -signal.SIGKILL, Path(f"{folder}.log").read_text()


def run_out_of_disk(folder: Path, moments: random.Random, what: str) -> None:
    """It says so in one line."""
    process = start(folder, what, written(folder) + moments.randrange(9), moments.randrange(10**6))
    process.join()
    said = Path(f"{folder}.log").read_text()
    assert process.exitcode == 1 and "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("error: ") and ("No space left" in last or "too large" in last), said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "whole"
    process = start(folder)
    process.join()
    assert process.exitcode == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(PARTS))
def test_stopped_again_and_again(whole: Path, tmp_path: Path, part: int) -> None:
    """Weights bit for bit, record and best checkpoint; each stop hits another moment of a round or of the start."""
    cut, moments, rounds = tmp_path / "cut", random.Random(part), []
    for point in range(POINTS):
        before = written(cut)
        if point % 3 == 2:
            run_out_of_disk(cut, moments, FULL[(part + point // 3) % 3])
        elif point % 3 == 1:
            kill_in(cut, moments, ("append", "save")[point // 3 % 2])
        else:
            kill(cut, moments, starting=point % 5 == 0)
        rounds.append(written(cut))
        assert rounds[-1] >= before - 1, "a finished round was lost"  # but the one whose checkpoint was under way
    last = start(cut)
    last.join()
    assert last.exitcode == 0
    assert len(set(rounds)) > 5 and rounds[-1] < ROUNDS
    assert facts(cut) == facts(whole)
    for name in ("checkpoint", "best"):
        expected = load_file(whole / name / "weights.safetensors")
        equal(load_file(cut / name / "weights.safetensors"), expected)
        assert (cut / name / "state.json").read_text() == (whole / name / "state.json").read_text()
    left, expected = ({path.name for path in folder.iterdir()} for folder in (cut, whole))
    earlier = [name for name in left if name.startswith("checkpoint.")]  # of which round depends on the stops
    assert len(earlier) == 1
    assert left - set(earlier) == {name for name in expected if not name.startswith("checkpoint.")}
