"""The same federation in real containers: ``make docker-test``."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from deployed import ENVIRONMENT, ROOT, free_port, in_process, make, wait_for
from safetensors.torch import load_file

from fedrac.results.record import read_metrics

pytestmark = pytest.mark.skipif(
    not os.environ.get("FEDRAC_DOCKER"), reason="builds an image: run it with make docker-test"
)
SERVICES = ("superlink", "proxy", "serverapp", "node-0", "node-1", "node-2")


def _missing() -> str | None:
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "no container engine answers: install Docker, or start it"
    return None if _compose() else "Docker Compose is not installed"


def _compose() -> list[str]:
    """``docker compose``, or what ``COMPOSE`` names, or ``docker-compose``."""
    if chosen := os.environ.get("COMPOSE"):
        return shlex.split(chosen)
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def _out(command: Sequence[str], **arguments: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **arguments)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return str(done.stdout).strip()


class Containers:
    """The project of ``docker/compose.yaml`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())
        self._environment = {**os.environ, **file, "PORT": (folder / "port").read_text()}
        self._compose = [*_compose(), "-p", f"fedrac-test-{os.getpid()}", "-f", str(ROOT / "docker/compose.yaml")]

    def compose(self, *arguments: str) -> str:
        return _out([*self._compose, *arguments], env=self._environment)

    def id(self, service: str) -> str:
        return self.compose("ps", "-q", service)

    def inspect(self, service: str) -> dict[str, object]:
        found: list[dict[str, object]] = json.loads(_out(["docker", "inspect", self.id(service)]))
        return found[0]

    def healthy(self, service: str) -> bool:
        state = self.inspect(service)["State"]
        assert isinstance(state, dict)
        return bool(state["Running"]) and state.get("Health", {"Status": "healthy"})["Status"] == "healthy"


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Containers]:
    if reason := _missing():
        pytest.skip(reason)
    build = ["docker", "build", *shlex.split(os.environ.get("DOCKER_BUILD_ARGS", ""))]
    subprocess.run([*build, "-f", "docker/Dockerfile", "-t", "fedrac", "."], cwd=ROOT, check=True)
    folder, port = tmp_path_factory.mktemp("docker") / "federation", str(free_port())
    shutil.copytree(data, folder / "data")
    make(folder, PORT=port)
    (folder / "port").write_text(port)
    found = Containers(folder)
    try:
        found.compose("up", "-d")
        wait_for(lambda: all(map(found.healthy, SERVICES)))
        yield found
        print(_out(["docker", "image", "ls", "fedrac", "--format", "image size {{.Size}}"]))
    finally:
        (folder / "compose.log").write_text(found.compose("logs", "--no-color"))
        found.compose("down", "-v")


def _run(containers: Containers, app: Path, name: str, overrides: str) -> Path:
    """A streamed run to its end; returns its output folder."""
    environment = {**os.environ, **ENVIRONMENT, "FLWR_HOME": str(containers.folder / "flower")}
    config = f"preset='nodes' overrides='data.path=/data pretrain=none output_dir=/outputs/{name} {overrides}'"
    said = _out(["flwr", "run", str(app), "docker", "--stream", "--run-config", config], env=environment)
    output = containers.folder / "outputs" / name
    lines = read_metrics(output / "metrics.jsonl")
    print(f"{name}, seconds of the rounds:", *(f"{line['seconds']:.1f}" for line in lines))
    assert f"round {len(lines)}/{len(lines)}" in said and (output / "summary.json").exists()
    assert all(line["cohort"] == [0, 1, 2] and "refused" not in line for line in lines)
    return output


def _equal(output: Path, expected: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, value in load_file(output / "checkpoint" / "weights.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance * float(expected[name].abs().max()))


def test_results_are_on_the_host(containers: Containers, app: Path, data: Path, tmp_path: Path) -> None:
    """A run equal to the one in this process, in the folder ``outputs``."""
    output = _run(containers, app, "run", "rounds=5")
    _equal(output, in_process(data, tmp_path / "in-process"), 1e-6)


def test_a_sum_of_which_the_server_sees_no_summand(
    containers: Containers, app: Path, data: Path, tmp_path: Path
) -> None:
    """The same under masks, which nodes agree on by messages of several processes; the grid rounds."""
    secure = ("secure_aggregation=on", "guard.clip=2", "rounds=3")
    output = _run(containers, app, "secure", " ".join(secure))
    _equal(output, in_process(data, tmp_path / "in-process", *secure), 1e-4)


@pytest.mark.parametrize("service", SERVICES)
def test_containers_can_do_little(containers: Containers, service: str) -> None:
    """No root, no capabilities, nothing written outside the volumes; no container sees the authority's key."""
    name = containers.id(service)
    assert _out(["docker", "exec", name, "id", "-u"]) != "0"
    status = _out(["docker", "exec", name, "cat", "/proc/1/status"])
    assert "CapEff:\t0000000000000000" in status and "CapBnd:\t0000000000000000" in status
    for place in ("/etc/x", "/usr/local/x", "/x"):
        assert subprocess.run(["docker", "exec", name, "touch", place], capture_output=True).returncode != 0
    mounts = containers.inspect(service)["Mounts"]
    assert isinstance(mounts, list)
    sources = {Path(mount["Source"]) for mount in mounts}
    assert not {containers.folder, containers.folder / "ca", containers.folder / "nodes"} & sources
    writable = {mount["Destination"] for mount in mounts if mount["RW"]}
    assert writable == {"serverapp": {"/state", "/outputs"}, "proxy": set()}.get(service, {"/state"})


def test_a_node_sees_its_own_key_and_data_only(containers: Containers) -> None:
    for node in range(3):
        name = containers.id(f"node-{node}")
        assert _out(["docker", "exec", name, "ls", "/node"]).split() == ["ca.crt", "key", "key.pub", "policy.yaml"]
        here = _out(["docker", "exec", name, "sha256sum", "/data/train-labels-idx1-ubyte.gz"]).split()[0]
        there = _out(["sha256sum", str(containers.folder / f"data/node-{node}/train-labels-idx1-ubyte.gz")]).split()[0]
        assert here == there


ASK = """
import base64, ssl, sys, urllib.error, urllib.request
address, path, token = sys.argv[1:]
request = urllib.request.Request(f"https://{address}{path}", b"", method="POST")
if token:
    request.add_header("Authorization", "Basic " + base64.b64encode(f"operator:{token}".encode()).decode())
try:
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile="/node/ca.crt"), timeout=20)
    print(200)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(type(error).__name__)
"""


def test_a_node_reaches_the_fleet_and_nothing_else(containers: Containers) -> None:
    """By the name that it knows, the SuperLink is the proxy; the SuperLink itself is in a network without nodes."""
    node = containers.id("node-0")

    def answer(address: str, path: str, token: str = "") -> str:
        return _out(["docker", "exec", node, "python", "-c", ASK, address, path, token])

    token = (containers.folder / "flower" / "control.token").read_text().strip()
    assert answer("superlink:9092", "/v1/control/list-runs") == "401"
    assert answer("superlink:9092", "/v1/control/list-runs", "guessed") == "401"
    assert answer("superlink:9092", "/v1/control/list-runs", token) not in ("401", "404", "502")
    assert answer("superlink:9092", "/v1/runtime/acquire-task", token) == "404"
    assert answer("superlink:9092", "/v1/fleet/pull-messages") not in ("404", "502")
    assert answer("superlink-inside:9092", "/v1/control/list-runs") == "URLError"
    networks = containers.inspect("superlink")["NetworkSettings"]
    assert isinstance(networks, dict)
    for about in networks["Networks"].values():
        assert answer(f"{about['IPAddress']}:9092", "/v1/control/list-runs") in ("URLError", "TimeoutError")


def test_only_the_proxy_listens_to_the_outside(containers: Containers) -> None:
    for service in SERVICES:
        host = containers.inspect(service)["HostConfig"]
        assert isinstance(host, dict)
        assert list(host["PortBindings"] or {}) == (["9092/tcp"] if service == "proxy" else [])
