"""One side at work, in a process of its own: ``python -m benchmarks.worker SIDE WORKLOAD DEVICE``.

Reads requests from standard input, one JSON object a line, and answers each on standard output. A request has
``rounds``, ``threads``, and, to see whether two sides do the same work, ``check``: a small workload to run afresh and
the file for its weights.
"""

import json
import os
import signal
import sys
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch

from benchmarks.workloads import WORKLOADS

SIDES = {"flower": "flower.Side", "flower-peer": "flower.Peer"}


def make(side: str, workload: str, device: str) -> Any:
    """The side, ready to run rounds."""
    module, _, name = SIDES.get(side, f"{side}.Side").partition(".")
    return getattr(import_module(f"benchmarks.sides.{module}"), name)(WORKLOADS[workload], device)


def answer(side: Any, workload: str, request: dict[str, Any]) -> dict[str, Any]:
    """Runs rounds: the seconds that each took and the examples that its clients had."""
    torch.set_num_threads(request["threads"])
    before, side.threads = side.round, request["threads"]
    times = side.run(request["rounds"])
    examples = [WORKLOADS[workload].examples_in(before + 1 + i) for i in range(request["rounds"])]
    return {"end": times[1], "seconds": [b - a for a, b in pairwise(times)], "examples": examples}


def check(side: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Two rounds of a small workload; the weights go into a file."""
    side.run(2)
    torch.save({name: value.cpu() for name, value in side.weights().items()}, request["path"])
    return {}


def main() -> None:
    """Answers until the input ends."""
    # As for Ctrl-C, so that a SuperLink is ended then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    name, workload, device = sys.argv[1:]
    side = make(name, workload, device)
    for line in sys.stdin:
        request = json.loads(line)
        if "check" in request:
            done = check(make(name, request["check"], device), request)
        else:
            done = answer(side, workload, request)
        print(json.dumps(done), file=answers, flush=True)


if __name__ == "__main__":
    main()
