"""A plain Flower app for the same work: one client a SuperNode, one message a client, FedAvg of the trained factors."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from benchmarks.lora import Adapted, order
from benchmarks.workloads import WORKLOADS

client = ClientApp()
server = ServerApp()


@lru_cache
def adapted(workload: str) -> Adapted:
    """The model of this process."""
    return Adapted(WORKLOADS[workload])


@client.train()
def train(message: Message, context: Context) -> Message:
    """Trains the factors of the client that this node is, from the weights in the message."""
    config, place = message.content["config"], int(context.node_config["partition-id"])
    workload, mine = WORKLOADS[config["workload"]], adapted(config["workload"])
    load(mine, message.content["arrays"].to_torch_state_dict())
    mine.begin(config["server-round"])
    rows = workload.shards[place]
    rows = rows[order(config["server-round"], place, len(rows)).numpy()]
    examples = workload.data.train.take(rows)
    mine.train(torch.from_numpy(examples.inputs), torch.from_numpy(examples.targets))
    arrays = ArrayRecord({name: Array(layer.A.detach().numpy()) for name, layer in mine.layers.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"weight": 1})}), reply_to=message)


def load(mine: Adapted, weights: dict[str, Tensor]) -> None:
    """The server's weights into the layers."""
    for name, layer in mine.layers.items():
        layer.base.weight.copy_(weights[name])


class StateLog(FedAvg):
    """FedAvg that merges the mean factor into the weights and writes down when."""

    def __init__(self, workload: str, folder: Path, **options: Any) -> None:
        super().__init__(fraction_evaluate=0.0, weighted_by_key="weight", **options)
        self.mine, self.folder = Adapted(WORKLOADS[workload]), folder

    def weights(self) -> ArrayRecord:
        return ArrayRecord({name: Array(value.numpy()) for name, value in self.mine.weights().items()})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        means, metrics = super().aggregate_train(server_round, replies)
        self.mine.begin(server_round)
        self.mine.merge(list(means.to_torch_state_dict().values()))
        torch.save(self.mine.weights(), self.folder / "weights.pt")
        with (self.folder / "rounds").open("a") as file:
            file.write(f"{server_round}\n")
        return self.weights(), metrics


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Runs all rounds."""
    config = context.run_config
    cohort, clients = (getattr(WORKLOADS[config["workload"]], name) for name in ("cohort", "clients"))
    nodes = {"min_train_nodes": cohort, "min_available_nodes": clients}
    strategy = StateLog(config["workload"], Path(config["folder"]), fraction_train=cohort / clients, **nodes)
    told = ConfigRecord({"workload": config["workload"]})
    strategy.start(grid, strategy.weights(), config["rounds"], train_config=told)
