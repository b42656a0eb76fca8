"""fedrac in one process: ``python -m benchmarks.sides.language_ours W6 ROUNDS THREADS DROPOUT``."""

import json
import shlex
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_COMMON = "data=custom model=custom partition=natural pretrain=none adapt.alpha=8 local.lr=1e-3 checkpoint.best=null"


def overrides(workload: str, dropout: float) -> list[str]:
    """Of the configuration."""
    if workload == "W6":
        own = (
            "data._target_=benchmarks.shapes.reviews +data.clients=8 +data.each=16 cohort.size=8 local.batch_size=8 "
            f"model._target_=benchmarks.shapes.roberta +model.dropout={dropout} 'adapt.full=[*classifier*]' "
            "'adapt.layers={*: frozen, *.query: 8, *.value: 8}'"
        )
    else:
        own = (
            "data._target_=benchmarks.shapes.equal_texts +data.clients=2 +data.each=2 +data.length=64 cohort.size=2 "
            "local.batch_size=2 model._target_=benchmarks.shapes.tiny_llama runtime.dtype=bfloat16 "
            "'adapt.layers={*: frozen, *.q_proj: 8, *.v_proj: 8}'"
        )
    return shlex.split(f"{_COMMON} evaluate.every=1 {own}")


class Clock:
    """Notes when every round ended, and what this process had written by then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.worked: list[float] = []  # seconds of all threads
        self.written: list[int] = []

    def begin(self, *_: Any) -> None:
        self.round()

    def round(self, *_: Any) -> None:
        lines = Path("/proc/self/io").read_text().splitlines()
        self.written.append(int(next(x for x in lines if x.startswith("wchar")).split()[1]))
        self.ends.append(time.monotonic())
        self.worked.append(time.process_time())

    def end(self, *_: Any) -> None:
        """Nothing is left to note."""


def main() -> None:
    """Prints what was measured, as JSON."""
    workload, rounds, threads, dropout = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    from fedrac.experiment import compose
    from fedrac.experiment.run import in_process, run

    settings = compose.load([*overrides(workload, dropout), f"rounds={rounds}", f"runtime.threads={threads}"])
    clock = Clock()
    with TemporaryDirectory() as folder:
        run(settings, in_process(settings), Path(folder), clock)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    seconds = [b - a for a, b in pairwise(clock.ends)]
    worked = [b - a for a, b in pairwise(clock.worked)]
    written = [b - a for a, b in pairwise(clock.written)]
    steady = slice(1, None) if rounds > 1 else slice(None)  # the first round also finds out how the model is trained
    last = lines[-1]
    found = {
        "seconds a round": round(statistics.median(seconds[steady]), 2),
        "CPU seconds a round": round(statistics.median(worked[steady]), 2),
        "first round": round(seconds[0], 2),
        "bytes up": int(last["upload_bytes"]),
        "bytes down": int(last["download_bytes"]),
        "bytes written a round": statistics.median(written[steady]),
        "bytes up of a client": int(last["upload_bytes"]) // len(last["cohort"]),
        "loss": round(last["test/loss"], 4),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
