"""A federation of processes on this machine: SuperLink with TLS and node authentication, ServerApp, nodes."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from fedrac.experiment import compose, run

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "PYTHONUNBUFFERED": "1",
    "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float = 400, pause: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)


def make(folder: Path, nodes: int = 3, **environment: str) -> str:
    """What ``docker/federation.sh`` says."""
    command = [str(ROOT / "docker/federation.sh"), "--nodes", str(nodes), str(folder)]
    said = subprocess.run(
        command,
        env={**os.environ, "ENV_FILE": str(folder / ".env"), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout


class Federation:
    """The processes; what they print is in ``folder/logs``.

    Args:
        folder: made by `make`, with this port.
        app: the app's folder.
        port: of the SuperLink.
    """

    def __init__(self, folder: Path, app: Path, port: int) -> None:
        self.folder, self.app, self.port = folder, app, port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "logs").mkdir(exist_ok=True)

    def environment(self, name: str) -> dict[str, str]:
        own = {"FLWR_HOME": str(self.folder / "state" / name / "flwr")}
        return {**os.environ, **ENVIRONMENT, **own}

    def start(self, name: str, command: str, extra: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A process in a group of its own, with what it starts."""
        with self.log(name).open("ab") as out:
            self.processes[name] = subprocess.Popen(
                shlex.split(command),
                env={**self.environment(name), **(extra or {})},
                cwd=self.folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return self.processes[name]

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def start_superlink(self) -> None:
        tls, state = self.folder / "superlink", self.folder / "state"
        secret = f"--superexec-auth-secret-file {tls / 'superexec.secret'}"
        self.start(
            "superlink",
            f"flower-superlink --host 127.0.0.1 --port {self.port} --ssl-ca-certfile {tls / 'ca.crt'} "
            f"--ssl-certfile {tls / 'server.crt'} --ssl-keyfile {tls / 'server.key'} --enable-supernode-auth "
            f"--database {state / 'superlink' / 'superlink.db'} --isolation process {secret}",
        )
        wait_for(self.answers)

    def start_serverapp(self) -> None:
        tls = self.folder / "superlink"
        self.start(
            "serverapp",
            f"flower-superexec --runtime-api-address 127.0.0.1:{self.port} --root-certificates {tls / 'ca.crt'} "
            f"--superexec-auth-secret-file {tls / 'superexec.secret'}",
        )

    def answers(self) -> bool:
        """Whether something listens; the SuperLink must not have ended."""
        assert self.processes["superlink"].poll() is None, self.log("superlink").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start_node(self, node: int, data: Path, again: bool = True) -> subprocess.Popen[bytes]:
        """With the key of ``node``, which is its partition id, too.

        Args:
            again: it is started again whenever it ends, as containers are: the SuperLink takes a killed node back only
                when it has missed the one that was killed.
        """
        own, supernode = self.folder / "nodes" / str(node), ROOT / "tests" / "deployment" / "node.py"
        compose = f'partition-id={node} data="{data}" policy="{own / "policy.yaml"}"'
        command = (
            f"python {supernode} --superlink 127.0.0.1:{self.port} --root-certificates {own / 'ca.crt'} "
            f"--auth-supernode-private-key {own / 'key'} --port {free_port()} --node-config '{compose}'"
        )
        cache = {"FEDRAC_CACHE": str(self.folder / "state" / f"node-{node}" / "cache")}
        command = f"sh -c {shlex.quote(f'while :; do {command}; sleep 5; done')}" if again else command
        return self.start(f"node-{node}", command, cache)

    def flwr(self, *arguments: str, check: bool = True) -> str:
        """What the command line says."""
        environment = {**os.environ, **ENVIRONMENT, "FLWR_HOME": str(self.folder / "flower")}
        done = subprocess.run(["flwr", *arguments], env=environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def register(self, *nodes: int) -> None:
        """Side by side: starting Flower's command takes longer than what it does."""
        keys = [str(self.folder / "public" / f"node-{node}.pub") for node in nodes]
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda key: self.flwr("supernode", "register", key, "docker"), keys))

    def run(self, overrides: str) -> None:
        """Hands a run to the SuperLink and returns at once."""
        compose = f"preset='nodes' overrides='{overrides}'"
        self.flwr("run", str(self.app), "docker", "--run-config", compose)

    def latest(self) -> dict[str, str]:
        """What the SuperLink says of the latest run: ``status``, e.g. ``finished:completed``, ``status-details``."""
        listed: dict[str, list[dict[str, str]]] = json.loads(
            self.flwr("list", "docker", "--limit", "1", "--format", "json")
        )
        return listed["runs"][0]

    def finish(self, output: Path) -> None:
        """Waits until the run that writes there has come to its end; it must not have failed."""
        asked = time.monotonic()

        def ended() -> bool:
            nonlocal asked
            if (output / "summary.json").exists():
                return True
            if time.monotonic() < asked + 30:  # the question takes seconds of a core
                return False
            asked = time.monotonic()
            return "finished" in self.latest()["status"]

        wait_for(ended)
        assert (output / "summary.json").exists(), self.latest()

    def says(self, name: str, text: str) -> bool:
        return text in self.log(name).read_text(errors="replace")

    def kill(self, name: str) -> None:
        """With everything that the process has started, at once."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)


def in_process(data: Path, output: Path, *overrides: str) -> dict[str, Tensor]:
    """The weights after five rounds of the same run in this process."""
    folders = ",".join(str(data / f"node-{node}") for node in range(3))
    given = [
        f"data.path={data / 'server'}",
        "pretrain=none",
        f"partition.folders=[{folders}]",
        "rounds=5",
        f"output_dir={output}",
        *overrides,
    ]
    settings = compose.load(["experiment=nodes", *given])
    run.run(settings, run.in_process(settings), output)
    return load_file(output / "checkpoint" / "weights.safetensors")
