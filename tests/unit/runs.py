"""Tiny runs over the in-process grid: a regression that six unequal clients share, and every method of ``conf/``."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from federation import Federation
from flwr.app import ArrayRecord, Message, MessageType
from omegaconf import OmegaConf
from own_methods import Own
from safetensors.torch import load_file
from torch import Tensor
from workloads import Workload, squared

from fedrac import data, models
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.controlled import Controlled
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.server_optimizer import ServerOptimizer
from fedrac.experiment import compose
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.strategy import FedRacLora
from fedrac.partition import partition
from fedrac.protocol import method_settings
from fedrac.protocol.messages import from_record, to_record
from fedrac.protocol.round_report import RoundReport
from fedrac.training.optimizer import LocalSpec

Tamper = Callable[[list[Message]], Iterable[Message]]
CLIENTS = 6


def workload(**changes: Any) -> dict[str, Any]:
    """Sizes grow with the client's id; layers are rectangular."""
    target = "fedrac.data.synthetic.linear_regression"
    return {
        "data": {"_target_": target, "examples": 60, "test_examples": 8, "features": 4, "outputs": 3, "clients": 2},
        "partition": {"scheme": "size", "clients": CLIENTS, "law": "linear"},
        "model": {"_target_": "fedrac.models.mlp", "inputs": 4, "hidden": [5], "outputs": 3},
        "seed": 1,
        "dtype": "float64",
        "device": "cpu",
        **changes,
    }


def strategy(work: dict[str, Any] | None = None, **changes: Any) -> FedRacLora:
    """Cohorts of four, rank 2, biases in full."""
    work = work or workload()
    settings: dict[str, Any] = {
        "adapt": AdaptSpec({"*": 2}, ("*.bias",), 3.0),
        "local": LocalSpec("adamw", 0.05, batch_size=4),
        "server": ServerSpec(cohort_size=4),
        **changes,
    }
    if isinstance(method := settings.get("method"), Controlled):
        settings["method"], settings["local"] = controlled(method, settings["server"].cohort_size, settings["local"])
    return FedRacLora(models.build(work["model"], work["seed"]), work, **settings)


def controlled(method: Controlled, cohort: int, local: LocalSpec) -> tuple[Controlled, LocalSpec]:
    """With the share of clients that cohorts have, and the optimizer that it needs."""
    local = LocalSpec("sgd", 0.05, batch_size=local.batch_size) if method.sends_controls else local
    return replace(method, participation=cohort / CLIENTS), local


def start(work: dict[str, Any] | None = None) -> ArrayRecord:
    """The initial weights of a workload, in its dtype."""
    work = work or workload()
    model = models.build(work["model"], work["seed"]).to(getattr(torch, work["dtype"]))
    return to_record(model.state_dict())


class TamperedGrid(InProcessGrid):
    """Hands the replies to training messages to ``tamper`` before the server sees them."""

    def __init__(self, tamper: Tamper, nodes: int = 3) -> None:
        super().__init__(client_app.app, nodes)
        self.tamper = tamper

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        replies = list(super().send_and_receive(sent, timeout=timeout))
        return list(self.tamper(replies)) if sent and sent[0].metadata.message_type == MessageType.TRAIN else replies


def grid(nodes: int = 1) -> InProcessGrid:
    return InProcessGrid(client_app.app, nodes)


def train(strategy_: FedRacLora, nodes: int = 1, rounds: int = 3, **arguments: Any) -> list[RoundReport]:
    """A whole run; returns its reports. The weights are in the strategy."""
    reports: list[RoundReport] = []
    given = {"on_round": reports.append, **arguments}
    strategy_.start(grid(nodes), start(strategy_.workload), rounds, **given)
    return reports


def by_hand(work: dict[str, Any], method: Method, cohort: int, eta: float, **choices: Any) -> Federation:
    """The library's parts, joined by hand, on a workload as hosts get it; in float64, mini-batches of four."""
    held, model = data.load(work["data"]), models.build(work["model"], work["seed"]).double()
    made = partition.make(work["partition"], held, work["seed"])
    inputs, targets = (torch.tensor(part).double() for part in (held.train.inputs, held.train.targets))
    local = LocalSpec("adamw", 0.05, batch_size=4)
    if isinstance(method, Controlled):
        method, local = controlled(method, cohort, local)
    return Federation(
        Workload(model, inputs, targets, squared, ("*.bias",)),
        [torch.from_numpy(made.of(client)) for client in range(made.clients)],
        method,
        local,
        cohort=cohort,
        eta=eta,
        seed=work["seed"],
        **choices,
    )


def node_of(message: Message) -> int:
    return message.metadata.src_node_id


def clients_of(message: Message) -> Sequence[int]:
    """The clients that a training reply speaks of."""
    return list(message.content.config_records["reply"]["clients"])  # type: ignore[arg-type]


def equal(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    """Same names and values: bit for bit, or to a tolerance relative to the largest entry of each tensor."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if tolerance:
            torch.testing.assert_close(actual[name], value, rtol=0, atol=tolerance * float(value.abs().max()))
        else:
            assert torch.equal(actual[name], value), name


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    return load_file(path)


def arrays(record: ArrayRecord) -> dict[str, Tensor]:
    return from_record(record)


def methods() -> dict[str, Method]:
    """Every file of ``conf/method``, a method that alternates sides, a chain with a server optimizer, and one's own."""
    files = sorted(Path(compose.config_dir(), "method").iterdir())
    more = {
        "alternating": Method(side="alternate"),
        "adam": Method(optimizer=ServerOptimizer("adam", 0.05)),
        "own": Own(),
    }
    own = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in files if path.stem != "custom"}
    return {name: method_settings.read(settings) for name, settings in own.items()} | more
