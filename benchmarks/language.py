"""Language models at their real size: time, memory and bytes of a whole run, beside a loop of transformers and PEFT.

    python -m benchmarks W6 W7
    python -m benchmarks.language W6 [--rounds 4] [--threads 2] [--sides ours]

W6: RoBERTa-base's shape, 8 clients of 16 reviews, batches of 8, rank 8 of query and value, the head in full.
W7: TinyLlama's shape (1.1 B parameters) in bfloat16, 2 clients, one step of 2 texts of 64 tokens each; no peer.

Weights are random and texts are made up, with the lengths of real film reviews, so nothing is downloaded. Every side is
a process of its own, whose private memory (without mapped files) is watched. A round is what lies between two rounds'
ends: training, the merge, a test on 32 reviews, and fedrac's checkpoint.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.driver import ROOT, Memory, environment

SIDES = {"W6": ("ours", "peft"), "W7": ("ours",)}
COHORT = {"W6": 8, "W7": 2}
ROUNDS = {"W6": 4, "W7": 1}

Values = dict[str, Any]


def main() -> None:
    """Runs the sides one after another and prints what was measured."""
    parser = argparse.ArgumentParser(description="Language models at their real size.")
    parser.add_argument("workload", choices=SIDES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0, help="of W6's model, on both sides")
    parser.add_argument("--sides", nargs="*", choices=("ours", "peft"))
    given = parser.parse_args()
    for side in given.sides or SIDES[given.workload]:
        values = measured(side, given.workload, given.rounds, given.threads, given.dropout)
        print(f"{given.workload} {side}: {described(values)}", flush=True)


def described(values: Values) -> str:
    """In one line."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def measured(side: str, workload: str, rounds: int | None = None, threads: int = 2, dropout: float = 0.0) -> Values:
    """One side in a process of its own: what it found, and its largest private memory."""
    command = [sys.executable, "-m", f"benchmarks.sides.language_{side}", workload]
    command += [str(rounds or ROUNDS[workload]), str(threads), str(dropout)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid, leader=True)
        with memory.watched(0.02):
            out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{workload} {side} failed")
    values: Values = json.loads(out.splitlines()[-1])
    return {**values, "peak private MB": round(memory.private / 1e6)}


def goals(found: Mapping[str, Mapping[str, Values]]) -> list[tuple[str, float, float]]:
    """What each goal says, its value and the most that it may be.

    Args:
        found: by workload and side, as `measured` gives it.
    """
    goals = []
    if "W6" in found:
        ours, peft = (found["W6"][side] for side in SIDES["W6"])
        for text, name, most in (("time", "seconds a round", 0.8), ("private memory", "peak private MB", 1.3)):
            goals.append((f"W6, {text}, in process / PEFT loop", ours[name] / peft[name], most))
        written = ours["bytes written a round"] / ours["bytes up of a client"]
        goals.append(("W6, bytes written a round / upload of a client", written, 3.0))
    if "W7" in found:
        goals.append(("W7, private memory (GB)", found["W7"]["ours"]["peak private MB"] / 1e3, 9.0))
    return goals


if __name__ == "__main__":
    main()
