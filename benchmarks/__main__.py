"""The command: ``python -m benchmarks [W1 W2 ... shell] [--repetitions N] [--quick] [--device cuda]``."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import groups, language, report, shell
from benchmarks.driver import ROOT, environment

QUICK = ("W1", "W2", "shell")
ON_GPU = ("W1", "W5", "W5-32")


def main() -> None:
    """Measures, prints the table, and writes ``benchmarks/results/NAME.json``."""
    given = arguments()
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {text}", flush=True)

    series, differences = [], {}
    for name in given.workloads:
        if name in groups.GROUPS:
            prepare(name, say)
            measured, differences[name] = groups.measure(name, given.device, given.repetitions, given.quick, say)
            series += measured
    models = {name: language_models(name, say) for name in given.workloads if name in language.SIDES}
    waits = wait_for_shell(given.repetitions, say) if "shell" in given.workloads else []
    found = {(one.group, one.name): one for one in series}
    results, shares = report.goals(found, waits, models), report.frozen_share(found)
    print("\n" + report.table(series, results, shares))
    path = ROOT / "benchmarks/results" / f"{given.name}.json"
    parts = {"results": results, "frozen_share": shares, "differences": differences, "shell": waits}
    write(path, given, report.as_json(series), **parts, language_models=models)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory beside peers.")
    choices = (*groups.GROUPS, *language.SIDES, "shell")
    parser.add_argument("workloads", nargs="*", metavar="|".join(choices), help="default: all")
    parser.add_argument("--repetitions", type=int, help="turns of every side (default: 5)")
    parser.add_argument("--quick", action="store_true", help="about a minute: W1, W2, shell, one turn, no flwr run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (W1 and W5)")
    parser.add_argument("--name", help="of the file of results (default: cpu and the number of cores)")
    given = parser.parse_args()
    if unknown := set(given.workloads) - set(choices):
        parser.error(f"there is no workload {unknown.pop()}: choose from {' '.join(choices)}")
    if given.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: torch sees no GPU here")
    on_gpu = given.device != "cpu"
    given.workloads = given.workloads or (ON_GPU if on_gpu else QUICK if given.quick else choices)
    given.repetitions = given.repetitions or (1 if given.quick else 5)
    given.name = given.name or ("quick" if given.quick else "cuda" if on_gpu else f"cpu{os.cpu_count()}")
    return given


def prepare(group: str, say: groups.Say) -> None:
    """Data and partitions into the cache, in a process of its own: no measured one should have to."""
    say(f"{group}: data")
    names = {name.split()[0] for name in groups.GROUPS[group]} | {"check-mlp", *groups.CHECKS.values()}
    subprocess.run([sys.executable, "-m", "benchmarks.workloads", *names], cwd=ROOT, env=environment(), check=True)


def language_models(name: str, say: groups.Say) -> dict[str, language.Values]:
    """Whole runs, by side."""
    found = {}
    for side in language.SIDES[name]:
        found[side] = language.measured(side, name, threads=os.cpu_count() or 1)
        say(f"{name} {side}: {language.described(found[side])}")
    return found


def wait_for_shell(repetitions: int, say: groups.Say) -> list[float]:
    """Seconds from the command to the first round; the run before the first fills the caches."""
    shell.first_round()
    waits = [shell.first_round() for _ in range(repetitions)]
    say(f"shell to first round: {', '.join(f'{seconds:.1f}' for seconds in waits)} s")
    return waits


def write(path: Path, given: argparse.Namespace, series: object, **parts: object) -> None:
    """All figures, with where and how they came about."""
    gpu = torch.cuda.get_device_name() if given.device != "cpu" else None
    options = {"repetitions": given.repetitions, "quick": given.quick, "device": gpu or given.device}
    path.parent.mkdir(exist_ok=True)
    content = {"options": options, "machine": report.machine(), **parts, "series": series}
    path.write_text(json.dumps(content, indent=1) + "\n")
    name = path.relative_to(ROOT)
    print(f"\nwritten to {name}; into the tables of the pages: python -m benchmarks.markdown {name}")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:  # a side failed: its log says why
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
