"""A language model on nodes in processes of their own: their memory, a round's time, how often they load the model.

    python -m benchmarks.nodes roberta [--nodes 2] [--rounds 3] [KEY=VALUE ...]
    python -m benchmarks.nodes llama --nodes 1 runtime.dtype=bfloat16 runtime.base_bits=8

The checkpoint has the shape of RoBERTa-base or of TinyLlama and random weights; it lies in a folder that
``save_pretrained`` wrote. Nodes are the workers to which a SuperNode's processes hand messages
(`fedrac.flower.worker`), each with a folder for its state; the server is this process, and messages do not cross a
network. KEY=VALUE are of the configuration.

Of a node: the largest private memory (without mapped files), from its start and after the first round; and what it
touched in the last round, mapped files included, as Linux tells (Referenced of smaps_rollup).
"""

import argparse
import os
import shlex
import signal
import statistics
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.driver import PAGE, Memory

_COMMON = (
    "data=custom model=custom partition=natural pretrain=none adapt.alpha=8 local.lr=1e-3 checkpoint.best=null "
    "model._target_=benchmarks.nodes.counted evaluate.every=1000 checkpoint.every=1000"
)
SHAPES = {
    "roberta": "data._target_=benchmarks.shapes.reviews +data.clients=8 +data.each=16 cohort.size=8 local.batch_size=8 "
    "+model.head=sequence_classification +model.outputs=2 'adapt.full=[*classifier*]' "
    "'adapt.layers={*: frozen, *.query: 8, *.value: 8}'",
    "llama": "data._target_=benchmarks.shapes.equal_texts +data.clients=2 +data.each=2 +data.length=64 cohort.size=2 "
    "local.batch_size=2 +model.head=causal_lm 'adapt.layers={*: frozen, *.q_proj: 8, *.v_proj: 8}'",
}
_LOADED = "loaded"


def counted(checkpoint: str, **arguments: Any) -> Any:
    """The model of a checkpoint; a line in a file beside it says which process has loaded it."""
    from fedrac.models import hf

    with (Path(checkpoint) / _LOADED).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return hf.checkpoint(checkpoint, **arguments)


class Workers:
    """The nodes' processes, watched between rounds.

    Attributes:
        ends: when rounds ended; the first is the beginning of the run.
        memories: of each worker, in the rounds until now or since the last `round`.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.whole: dict[int, int] = {}
        self.later: dict[int, int] = {}
        self.touched: dict[int, int] = {}

    def begin(self, *_: Any) -> None:
        self.ends.append(time.monotonic())

    def round(self, *_: Any) -> None:
        self.ends.append(time.monotonic())
        for worker in started():
            self.touched[worker] = _referenced(worker)
            Path(f"/proc/{worker}/clear_refs").write_text("1")

    def end(self, *_: Any) -> None:
        """Nothing is left to note."""

    def watch(self) -> None:
        """Looks at the memory of all workers until this process ends."""
        while True:
            for worker in started():
                resident, shared = Memory._pages(worker)
                private = PAGE * (resident - shared)
                self.whole[worker] = max(self.whole.get(worker, 0), private)
                if len(self.ends) > 2:
                    self.later[worker] = max(self.later.get(worker, 0), private)
            time.sleep(0.02)


def started() -> list[int]:
    """Workers that this process has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            mine = int((place / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
            if mine and b"fedrac.flower.worker" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:  # it has ended
            continue
    return found


def _referenced(worker: int) -> int:
    lines = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("Referenced")).split()[1])


def save(shape: str, folder: Path) -> None:
    """A checkpoint of random weights."""
    from benchmarks import shapes
    from fedrac.models.hub import quiet

    with quiet():
        model = shapes.roberta_itself(0.0) if shape == "roberta" else shapes.tiny_llama().model
        model.save_pretrained(folder)


def main() -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description="A language model on nodes in processes of their own.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_intermixed_args()
    import threading

    from fedrac.experiment import compose
    from fedrac.experiment.run import run
    from fedrac.flower import node_app
    from fedrac.flower.in_process_grid import InProcessGrid

    workers = Workers()
    threading.Thread(target=workers.watch, daemon=True).start()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(given.shape, folder / "model")
        told = shlex.split(
            f"{_COMMON} {SHAPES[given.shape]} +model.checkpoint={folder / 'model'} rounds={given.rounds}"
        )
        settings = compose.load([*told, *given.overrides])
        nodes: list[dict[str, int | str]] = [
            {"partition-id": n, "num-partitions": given.nodes, "policy": "open", "idle": 600, "state": f"{folder}/{n}"}
            for n in range(given.nodes)
        ]
        grid = InProcessGrid(node_app.app, nodes)
        for context in grid._contexts.values():  # the workers of other runs have other ids
            context.node_id += os.getpid() << 16
        try:
            run(settings, grid, folder / "out", workers)
        finally:
            for worker in started():
                os.kill(worker, signal.SIGTERM)
        loaded = [int(line) for line in (folder / "model" / _LOADED).read_text().split()]
    seconds = [b - a for a, b in pairwise(workers.ends)]
    print(f"rounds: first {seconds[0]:.1f} s, then {statistics.median(seconds[1:] or seconds):.1f} s")
    for worker, private in workers.whole.items():
        print(
            f"node: model loaded {loaded.count(worker)} times, private at most {private / 1e6:.0f} MB, after the first "
            f"round {workers.later.get(worker, 0) / 1e6:.0f} MB, touched in the last round "
            f"{workers.touched[worker] / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
