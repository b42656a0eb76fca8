"""``flwr run`` in Flower's simulation on Ray; each call of `run` is a run of its own, on a SuperLink of its own."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.workloads import SEED, Workload
from fedrac.flower.superlink import copy_app, superlink_environment, toml_string

ROOT = Path(__file__).parents[2]


def rounds_of(command: Sequence[str], environment: dict[str, str], lines: Path, count: int) -> list[float]:
    """Runs until the file ``lines`` has that many lines, one a round, and returns when each came."""
    times: list[float] = []
    with subprocess.Popen(command, env=environment) as process:
        try:
            while len(times) < count:
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)}: only {len(times)} of {count} rounds")
                seen = lines.read_bytes().count(b"\n") if lines.exists() else 0
                times += [time.monotonic()] * (seen - len(times))
                time.sleep(0.002)
        finally:
            process.terminate()
    return times


class Side:
    """fedrac's own app on two SuperNodes."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.supernodes = workload, 2
        self.round, self.threads = 0, 1

    def run(self, rounds: int) -> list[float]:
        """From round 1, each time; the first one includes the start of all processes."""
        with TemporaryDirectory() as folder:
            return [time.monotonic(), *self.run_in(Path(folder), rounds)]

    def run_in(self, folder: Path, rounds: int) -> list[float]:
        app, out = copy_app(ROOT, folder / "app"), folder / "out"
        overrides = " ".join([*self.overrides(), f"rounds={rounds}", f"output_dir={out}"])
        return self.flwr_run(app, f"overrides={toml_string(overrides)}", out / "metrics.jsonl", rounds)

    def flwr_run(self, app: Path, config: str, lines: Path, rounds: int) -> list[float]:
        """The times at which the rounds of a run end."""
        cpus = f"client-resources-num-cpus={self.threads} init-args-num-cpus={os.cpu_count()}"
        command = ["flwr", "run", str(app), "--stream", "--run-config", config]
        command += ["--federation-config", f"num-supernodes={self.supernodes} {cpus}"]
        with superlink_environment({"PYTHONPATH": str(ROOT)}) as environment:
            return rounds_of(command, environment, lines, rounds)

    def overrides(self) -> list[str]:
        work, local = self.workload, self.workload.local
        data = [f"+data.{k}={'null' if v is None else v}" for k, v in work.data_spec.items() if k != "_target_"]
        model = [f"+model.{k}={str(v).replace(' ', '')}" for k, v in work.model.items()]
        return [
            "data=custom data._target_=benchmarks.workloads.make_data partition=natural pretrain=none",
            "model=custom model._target_=benchmarks.workloads.make_model local=sgd evaluate.every=1000000",
            f"local.lr={local.lr} local.batch_size={local.batch_size} cohort.size={work.cohort} seed={SEED}",
            *data,
            *model,
        ]


class Peer(Side):
    """The plain app in ``benchmarks/flower_peer``: a SuperNode for every client."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.supernodes = workload.clients
        self._weights: dict[str, Tensor] = {}

    def run_in(self, folder: Path, rounds: int) -> list[float]:
        config = f'workload="{self.workload.name}" rounds={rounds} folder={toml_string(str(folder))}'
        times = self.flwr_run(ROOT / "benchmarks/flower_peer", config, folder / "rounds", rounds)
        self._weights = torch.load(folder / "weights.pt")
        return times

    def weights(self) -> dict[str, Tensor]:
        return self._weights
