"""Run the project as a Flower app on a SuperLink of its own.

A plain `flwr run .` uses the SuperLink that it finds on a fixed port of the machine, starts one where there is
none, leaves it running, and exits with 0 even where the run failed. Here the SuperLink has a free port and a
folder of its own, ends with the run, and the exit code is that of the run:

    python -m fedrac.flower [--supernodes N] [KEY=VALUE ...]
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

SETTINGS = {
    # Otherwise every run builds an environment of its own, and downloads torch into it.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    # How often a SuperLink looks for a new run; a second by default.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
START_SECONDS = 60
STOP_SECONDS = 15


@contextmanager
def superlink_environment(extra: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Start a SuperLink for simulations, yield the environment in which `flwr` finds it, and end it.

    Args:
        extra: variables for the SuperLink and the apps that run on it, besides those of this process.

    Raises:
        RuntimeError: if the SuperLink ends, or does not answer, while it starts; the text holds its log.
    """
    with TemporaryDirectory(prefix="fedrac-") as home:
        port = _free_port()
        connection = f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{port}"\ninsecure = true'
        Path(home, "config.toml").write_text(connection, encoding="utf-8")
        # A SuperLink starts its helpers by name: they are beside this Python, in PATH or not.
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
        environment = {**SETTINGS, **os.environ, **(extra or {}), "FLWR_HOME": home, "PATH": path}
        process = _start(environment, port)
        try:
            _wait_until_ready(process, port, Path(home))
            yield environment
        finally:
            _stop(process)


def run_app(
    environment: Mapping[str, str],
    app_dir: Path,
    overrides: str = "",
    *,
    preset: str = "",
    supernodes: int = 2,
    cpus_per_client: int = 1,
) -> int:
    """Run an app in Flower's simulation, show its log meanwhile, and return its exit code, 0 if it completed.

    Args:
        environment: where a SuperLink runs, from `superlink_environment`.
        app_dir: the folder of the app's `pyproject.toml`.
        overrides, preset: the two strings of the app's run configuration.
        supernodes: how many nodes are simulated, in as many processes, or in one a core if cores are fewer.
        cpus_per_client: cores, and so threads, of one such process.
    """
    federation = f"num-supernodes={supernodes} client-resources-num-cpus={cpus_per_client}"
    if "RAY_ADDRESS" not in environment:  # a Ray cluster that is there already has its own count
        federation += f" init-args-num-cpus={min(supernodes * cpus_per_client, os.cpu_count() or 1)}"
    config = f"preset={toml_string(preset)} overrides={toml_string(overrides)}"
    command = ["flwr", "run", str(app_dir), "--stream", "--run-config", config, "--federation-config", federation]
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
    status: str = json.loads(listing)["runs"][0]["status"]
    return 0 if status == "finished:completed" else 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(environment: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    command = ["flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    with Path(environment["FLWR_HOME"], "superlink.log").open("wb") as log:
        # In a session of its own: Ctrl-C reaches us alone, and we end the SuperLink in order.
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return
        except (URLError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(f"the SuperLink did not start:\n{(home / 'superlink.log').read_text(errors='replace')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    """Run the app of the current folder with the overrides of the command line."""
    parser = argparse.ArgumentParser(prog="python -m fedrac.flower", description="Run Flower's simulation.")
    parser.add_argument("--supernodes", type=int, default=2, help="nodes that share the clients (default: 2)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration overrides")
    arguments = parser.parse_args()
    # As for Ctrl-C, so that the SuperLink is ended as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with superlink_environment() as environment:
            return run_app(environment, Path.cwd(), " ".join(arguments.overrides), supernodes=arguments.supernodes)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
