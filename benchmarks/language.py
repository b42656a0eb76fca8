"""Language models at their real size: time, memory and bytes of a whole run, beside a loop of transformers and PEFT.

    python -m benchmarks.language W6 [--rounds 4] [--threads 2]
    python -m benchmarks.language W7

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
from typing import Any

from benchmarks.driver import ROOT, Memory, environment

SIDES = {"W6": ("ours", "peft"), "W7": ("ours",)}


def main() -> None:
    """Runs the sides one after another and prints what was measured."""
    parser = argparse.ArgumentParser(description="Language models at their real size.")
    parser.add_argument("workload", choices=SIDES)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0, help="of W6's model, on both sides")
    parser.add_argument("--sides", nargs="*", choices=("ours", "peft"))
    given = parser.parse_args()
    rounds = given.rounds or (4 if given.workload == "W6" else 1)
    found = {side: measured(side, given, rounds) for side in given.sides or SIDES[given.workload]}
    for side, values in found.items():
        print(f"{given.workload} {side}: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    if len(found) == 2:
        for name in ("seconds a round", "CPU seconds a round", "peak private MB"):
            print(f"{name}, fedrac / PEFT loop: {found['ours'][name] / found['peft'][name]:.2f}")


def measured(side: str, given: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """One side in a process of its own: what it found, and its largest private memory."""
    command = [sys.executable, "-m", f"benchmarks.sides.language_{side}", given.workload, str(rounds)]
    command += [str(given.threads), str(given.dropout)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process.pid, leader=True)
        with memory.watched(0.02):
            out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{side} failed")
    values: dict[str, Any] = json.loads(out.splitlines()[-1])
    return {**values, "peak private MB": round(memory.private / 1e6)}


if __name__ == "__main__":
    main()
