"""A Ray cluster of two nodes, each with processes, a cache and an address of its own, one of which dies in mid-run."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedrac.experiment import compose
from fedrac.experiment.run import run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.superlink import run_app, superlink_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address"),
]

ROUNDS = 20
OVERRIDES = (
    "data=linear_regression data.examples=120 partition=size partition.clients=6 cohort.size=4 pretrain=none "
    "model=mlp model.inputs=10 'model.hidden=[5]' model.outputs=10 local.epochs=2 evaluate.every=5 "
    f"runtime.dtype=float64 rounds={ROUNDS}"
)
HEAD, SECOND = "127.0.0.2", "127.0.0.3"


class Cluster:
    """Ray nodes, each of them the process group of a `ray start --block`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"{HEAD}:{free_port()}"

    def start(self, ip: str, cpus: int, *options: str) -> None:
        """Starts a node and waits until it has joined."""
        log = self.folder / f"{ip}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--log-style=record", *options]
        command += [f"--node-ip-address={ip}", f"--num-cpus={cpus}", f"--temp-dir={self.folder / ip}"]
        command += ["--object-store-memory=100000000", "--dashboard-agent-listen-port=0"]
        command += ["--min-worker-port=0", "--max-worker-port=0"]
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        # A dead node, whose port refuses, is missed after two seconds and a half; a slow one has ten for each answer.
        missed = {"RAY_health_check_period_ms": "500"}
        environment = {**os.environ, **quiet, **missed, "FEDRAC_CACHE": str(self.cache(ip))}
        with log.open("wb") as out:
            self.nodes[ip] = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        wait_for(lambda: "Ray runtime started" in log.read_text(), self.nodes[ip])

    def cache(self, ip: str) -> Path:
        """Where the hosts on a node keep their data."""
        return self.folder / f"cache-{ip}"

    def kill(self, ip: str) -> None:
        """The machine is gone, with all that ran on it."""
        process = self.nodes.pop(ip)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server((HEAD, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 240  # a busy machine takes a minute and more to start Ray and Flower
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.05)


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes; the parameter is the number of CPUs of the head, the second has one."""
    with TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # names of sockets must be short
        made = Cluster(Path(folder))
        port = made.address.split(":")[1]
        head = ["--head", f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
        try:
            made.start(HEAD, request.param, *head)
            made.start(SECOND, 1, f"--address={made.address}")
            yield made
        finally:
            for ip in list(made.nodes):
                made.kill(ip)


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_and_kill(cluster: Cluster, app_dir: Path, output: Path) -> int:
    """The second node dies when three rounds are done; returns the run's exit code."""
    overrides = f"{OVERRIDES} output_dir={output}"
    with superlink_environment({"RAY_ADDRESS": cluster.address}) as environment, ThreadPoolExecutor(1) as thread:
        running = thread.submit(run_app, environment, app_dir, overrides, supernodes=2)
        wait_for(lambda: len(lines(output)) >= 3 or running.done())
        cluster.kill(SECOND)
        return running.result()


@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_node_that_dies_does_not_change_the_run(
    cluster: Cluster, app_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found, undisturbed = tmp_path / "found", tmp_path / "undisturbed"
    assert run_and_kill(cluster, app_dir, found) == 0
    said = capfd.readouterr().out
    # Both nodes have loaded data for themselves, and the one that died had clients to train.
    assert all(list(cluster.cache(ip).iterdir()) for ip in (HEAD, SECOND))
    assert re.search(rf"Actor(Unavailable|Died)Error.*{re.escape(SECOND)}", said, re.DOTALL)
    assert [line["round"] for line in lines(found)] == list(range(1, ROUNDS + 1))
    settings = compose.load([*compose.split_overrides(OVERRIDES), "runtime.hosts=2", f"output_dir={undisturbed}"])
    run(settings, InProcessGrid(client_app.app, 2), undisturbed)
    for line, other in zip(lines(found), lines(undisturbed), strict=True):
        assert {**line, "seconds": 0} == {**other, "seconds": 0}
    weights = load_file(found / "checkpoint" / "weights.safetensors")
    for name, value in load_file(undisturbed / "checkpoint" / "weights.safetensors").items():
        assert value.isfinite().all() and torch.equal(weights[name], value)


@pytest.mark.parametrize("cluster", [0], indirect=True)
def test_a_run_stops_where_no_node_is_left_to_serve(
    cluster: Cluster, app_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run_and_kill(cluster, app_dir, output) != 0
    said = capfd.readouterr().out
    done = len(lines(output))
    assert 3 <= done < ROUNDS
    assert f"round {done + 1}: 0 of 4 clients answered well, cohort.min_fraction=1.0 needs more." in said
    assert json.loads((output / "checkpoint" / "state.json").read_text())["round"] == done
    assert all(w.isfinite().all() for w in load_file(output / "checkpoint" / "weights.safetensors").values())
