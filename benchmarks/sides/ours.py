"""fedrac in one process: the whole round, from drawing the cohort to the merged weights."""

import time

from torch import Tensor

from benchmarks.workloads import Workload
from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.messages import to_record


class Side:
    def __init__(self, workload: Workload, device: str) -> None:
        model, server = workload.build(), ServerSpec(workload.cohort)
        options = {"adapt": workload.adapt, "local": workload.local, "server": server}
        self.strategy = FedRacLora(model, workload.spec(device), **options)
        self.start, self.grid, self.round = to_record(model.state_dict()), InProcessGrid(client_app.app), 0

    def run(self, rounds: int) -> list[float]:
        self.round += rounds
        times = [time.monotonic()]
        state, stamp = self.strategy.state, lambda _: times.append(time.monotonic())
        self.strategy.start(self.grid, self.start, self.round, state=state, on_round=stamp)
        return times

    def weights(self) -> dict[str, Tensor]:
        return self.strategy.effective_weights()
