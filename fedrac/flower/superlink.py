"""Run the project as a Flower app on a SuperLink of its own.

A plain `flwr run .` uses the SuperLink that it finds on a fixed port of the machine, starts one where there
is none, leaves it running, and exits with 0 even where the run failed. Here the SuperLink has a free port and
a folder of its own, ends with the run, and the exit code is that of the run:

    python -m fedrac.flower [--supernodes N] [KEY=VALUE ...]
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fedrac.loading.machine import cores

SETTINGS = {
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    # How often, in seconds, a run that waits to start is looked for: 1 unless told.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    # Not whatever cluster `ray start` has left on this machine; set RAY_ADDRESS to join one.
    "RAY_ADDRESS": "local",
    "RAY_USAGE_STATS_ENABLED": "0",
    # What later versions of Ray do, and what this one warns of: leave the list of visible GPUs as it is.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
START_SECONDS = 60
STOP_SECONDS = 10


@contextmanager
def superlink_environment(extra: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Start a SuperLink for simulations, yield the environment in which `flwr` finds it, and end it.

    Args:
        extra: variables for the SuperLink and the apps that run on it, besides those of this process.

    Raises:
        RuntimeError: if the SuperLink ends, or does not answer, while it starts; the text holds its log.
    """
    with TemporaryDirectory(prefix="fedrac-") as home:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]  # free until now: the SuperLink takes it next
        connection = f'address = "127.0.0.1:{port}"\ninsecure = true\n'
        Path(home, "config.toml").write_text(f'[superlink]\ndefault = "own"\n[superlink.own]\n{connection}')
        # Flower starts its processes by name: they are beside this Python, in PATH or not.
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
        environment = {**SETTINGS, **os.environ, **(extra or {}), "FLWR_HOME": home, "PATH": path}
        processes: list[subprocess.Popen[bytes]] = []
        try:
            _start(processes, environment, port)
            yield environment
        finally:
            _end(processes)


def copy_app(project: Path, folder: Path) -> Path:
    """Copy what Flower packs of a project, and nothing else, into a folder, and return the folder.

    `flwr run` looks at all files of a project before it packs some: a virtual environment in it costs seconds a run.

    Args:
        project: has a `pyproject.toml` with patterns under `tool.flwr.app.fab-include`.
        folder: where the files go.

    Raises:
        ValueError: the project has no such file, or no patterns in it.
    """
    settings = project / "pyproject.toml"
    try:
        patterns = tomllib.loads(settings.read_text())["tool"]["flwr"]["app"]["fab-include"]
    except (FileNotFoundError, KeyError) as error:
        wrong = f"{project} has no pyproject.toml that says what Flower packs (tool.flwr.app.fab-include)"
        raise ValueError(f"{wrong}: go to the folder of fedrac's repository") from error
    for path in (settings, *(path for pattern in patterns for path in project.glob(pattern.lstrip("/")))):
        there = folder / path.relative_to(project)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    return folder


def run_app(
    environment: Mapping[str, str],
    app_dir: Path,
    overrides: str = "",
    preset: str = "",
    supernodes: int = 2,
    gpus: float = 0.0,
) -> int:
    """Run an app in Flower's simulation, show its log meanwhile, and return its exit code, 0 if it completed.

    Args:
        environment: that of a SuperLink, from `superlink_environment`.
        app_dir: the folder of the app's `pyproject.toml`.
        overrides, preset: the two strings of the app's run configuration.
        supernodes: how many nodes are simulated, each by a process with one core, as far as there are cores.
        gpus: how many GPUs such a process has for itself; with 0 it sees all of its machine.
    """
    federation = f"num-supernodes={supernodes} client-resources-num-cpus=1 client-resources-num-gpus={gpus}"
    if environment.get("RAY_ADDRESS", "local") == "local":  # a Ray cluster has its own count
        federation += f" init-args-num-cpus={min(supernodes, cores())}"
    config = f"preset={toml_string(preset)} overrides={toml_string(overrides)}"
    command = ["flwr", "run", str(app_dir), "--stream"]
    command += ["--run-config", config, "--federation-config", federation]
    # Unbuffered, so that the log is seen while the run goes on, also through a pipe.
    code = subprocess.run(command, env={**environment, "PYTHONUNBUFFERED": "1"}).returncode
    return code or _outcome_of_last_run(environment)


def toml_string(text: str) -> str:
    """Write `text` as a TOML string that `flwr run --run-config` reads back unchanged.

    `flwr` splits its argument by a pattern that knows no escaped quotes: they are written as code points.
    """
    return '"' + re.sub(r'[\\"\x00-\x1f\x7f]', lambda match: f"\\u{ord(match[0]):04x}", text) + '"'


def _outcome_of_last_run(environment: Mapping[str, str]) -> int:
    command = ["flwr", "ls", "--limit", "1", "--format", "json"]
    listing = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    return 0 if json.loads(listing)["runs"][0]["status"] == "finished:completed" else 1


def _start(processes: list[subprocess.Popen[bytes]], environment: Mapping[str, str], port: int) -> None:
    """Start a SuperLink and the SuperExec that starts its runs, wait for them, and add them to `processes`.

    A SuperLink can start a SuperExec itself, but does so in another process group. In a common one, which the
    processes of a simulation join, nothing outlives an interrupted run, where Ray's agents would for minutes.
    """
    superlink = "flower-superlink --insecure --simulation --isolation process --host 127.0.0.1 --port"
    superexec = "flower-superexec --insecure --runtime-api-address"
    log = Path(environment["FLWR_HOME"], "superlink.log")
    with log.open("wb") as out:
        for command in (f"{superlink} {port}", f"{superexec} 127.0.0.1:{port}"):
            group = processes[0].pid if processes else 0  # 0: a new one
            processes.append(
                subprocess.Popen(command.split(), env=environment, stdout=out, stderr=out, process_group=group)
            )
    if not _answers(processes[0], port):
        raise RuntimeError(f"the SuperLink did not start:\n{log.read_text(errors='replace')}")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        time.sleep(0.05)
    return False


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL) if processes else ():
        with suppress(ProcessLookupError):
            os.killpg(processes[0].pid, number)
        with suppress(subprocess.TimeoutExpired):
            for process in processes:
                process.wait(STOP_SECONDS)


def main() -> int:
    """Run the app of the current folder with the overrides of the command line."""
    parser = argparse.ArgumentParser(prog="python -m fedrac.flower", description="Run Flower's simulation.")
    parser.add_argument("--supernodes", type=int, default=2, help="nodes that share the clients (default: 2)")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs for each of their processes (default: 0)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration overrides")
    given = parser.parse_args()
    # As for Ctrl-C, so that the SuperLink is ended then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="fedrac-app-") as folder:
        try:
            app = copy_app(Path.cwd(), Path(folder))
        except ValueError as error:
            parser.error(str(error))
        try:
            with superlink_environment() as environment:
                overrides = shlex.join(given.overrides)
                return run_app(environment, app, overrides, supernodes=given.supernodes, gpus=given.gpus)
        except KeyboardInterrupt:
            return 130
