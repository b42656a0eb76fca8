"""Evaluation on the clients' own data, and what becomes of metrics that make no sense."""

from collections.abc import Callable
from typing import Any

import pytest
import runs
import torch
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from runs import arrays, grid, node_of, start, strategy, workload

from fedrac import data, models
from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.partition import partition


def evaluation(of: FedRacLora, tamper: Callable[[list[Message]], list[Message]]) -> MetricRecord | None:
    list(of.configure_train(1, start(), ConfigRecord(), grid(3)))
    of.rounds = 1
    sent = list(of.configure_evaluate(1, start(), ConfigRecord(), grid(3)))
    assert {message.metadata.message_type for message in sent} == {MessageType.EVALUATE}
    return of.aggregate_evaluate(1, tamper(list(grid(3).send_and_receive(sent))))


def test_evaluation_on_clients_is_the_mean_over_their_examples() -> None:
    found = strategy(evaluate_on_clients=True, server=ServerSpec(runs.CLIENTS))
    metrics = evaluation(found, lambda replies: replies)
    held = data.load(workload()["data"])
    rows = partition.make(workload()["partition"], held, 1).index
    model = models.build(workload()["model"], 1).double()
    model.load_state_dict(arrays(start()))
    with torch.no_grad():
        errors = model(torch.tensor(held.train.inputs[rows]).double()) - torch.tensor(held.train.targets[rows])
    assert metrics is not None and set(metrics) == {"clients/loss", "clients/mse"}
    assert metrics["clients/mse"] == pytest.approx(errors.square().mean().item(), rel=1e-12)


BAD_METRICS = [
    {"examples": 5.0, "loss": [1.0], "mse": [1.0]},
    {"examples": [0.0], "loss": [1.0], "mse": [1.0]},
    {"examples": [5.0], "loss": [float("nan")], "mse": [1.0]},
    {"loss": [1.0], "mse": [1.0]},
    {"examples": [5.0], "loss": 1.0, "mse": [1.0]},
    {"examples": [5.0], "mse": [1.0]},
    {"examples": [5.0], "invented": [1.0]},
]


@pytest.mark.parametrize("bad", BAD_METRICS, ids=str)
def test_bad_metrics_of_a_host_are_left_out(bad: dict[str, Any]) -> None:
    found = strategy(evaluate_on_clients=True, server=ServerSpec(runs.CLIENTS))

    def spoil(replies: list[Message]) -> list[Message]:
        replies[0].content = RecordDict({"metrics": MetricRecord(bad)})
        return replies

    without = evaluation(found, lambda replies: [reply for reply in replies if node_of(reply) != 1])
    assert evaluation(found, spoil) == without != evaluation(found, lambda replies: replies)
    assert evaluation(found, lambda replies: []) is None


def test_a_metric_that_one_host_makes_up_is_left_out() -> None:
    found = strategy(evaluate_on_clients=True, server=ServerSpec(runs.CLIENTS))

    def spoil(replies: list[Message]) -> list[Message]:
        metrics = replies[0].content.metric_records["metrics"]
        metrics["invented"] = [1e9] * len(metrics["examples"])  # type: ignore[arg-type]
        return replies

    assert evaluation(found, spoil) == evaluation(found, lambda replies: replies)


@pytest.mark.parametrize("wanted", [2, "all"])
def test_flowers_own_loop_asks_the_same_clients(wanted: Any) -> None:
    """The same ones in all rounds, whoever was in the cohort; and the cohorts' downloads are those without a test."""
    own, plain = (strategy(evaluate_on_clients=wanted) for _ in range(2))
    reports: list[Any] = []
    result = own.start(grid(3), start(), 3, on_round=reports.append)
    other = Strategy.start(plain, grid(3), start(), 3)
    assert dict(other.evaluate_metrics_clientapp) == dict(result.evaluate_metrics_clientapp)
    tested = {tuple(report.tested.clients) for report in reports}
    assert len(tested) == 1 and len(tested.pop()) == (runs.CLIENTS if wanted == "all" else 2)
    untested = runs.train(strategy(), 3)
    assert [report.download_bytes for report in reports] == [report.download_bytes for report in untested]
