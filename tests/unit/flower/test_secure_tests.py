"""Tests on clients under masks: the server sees the means over all examples, and nothing of one client."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from command import TINY
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from runs import CLIENTS, arrays, grid, start, strategy, train, workload

import fedrac
from fedrac import data, models
from fedrac.aggregation import exact_words
from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.round_settings import TestClients as Testers
from fedrac.flower.strategy import FedRacLora
from fedrac.partition import partition
from fedrac.protocol.messages import from_record, to_record

Tamper = Callable[[RecordDict], RecordDict]


def secure(on_clients: Testers = "all", **changes: object) -> FedRacLora:
    given = {"secure": SecureSpec(True, bits=24), "guard": GuardSpec(clip=5.0), "server": ServerSpec(CLIENTS)}
    return strategy(evaluate_on_clients=on_clients, **{**given, **changes})  # type: ignore[arg-type]


def mse(of: FedRacLora, clients: Sequence[int]) -> float:
    """Of the model as it stands, over the examples of clients."""
    held = data.load(workload()["data"])
    split = partition.make(workload()["partition"], held, 1)
    rows = torch.cat([torch.as_tensor(split.of(client)) for client in clients])
    model = models.build(workload()["model"], 1).double()
    model.load_state_dict(of.effective_weights())
    with torch.no_grad():
        errors = model(torch.tensor(held.train.inputs[rows]).double()) - torch.tensor(held.train.targets[rows])
    return errors.square().mean().item()


class Watched(InProcessGrid):
    """Nodes of one client each; what they answer to tests is seen, spoiled, or lost."""

    def __init__(self, lost: Sequence[int] = (), spoilt: int | None = None, tamper: Tamper = lambda x: x) -> None:
        super().__init__(client_app.app, CLIENTS)
        self.lost, self.spoilt, self.tamper = lost, spoilt, tamper
        self.seen: list[RecordDict] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        kept = []
        for message in super().send_and_receive(messages, timeout=timeout):
            client = message.metadata.src_node_id - 1
            if message.metadata.message_type == MessageType.EVALUATE:
                if client in self.lost:
                    continue
                if client == self.spoilt:
                    message.content = self.tamper(message.content)
                self.seen.append(message.content)
            kept.append(message)
        return kept


def measured(of: FedRacLora, there: InProcessGrid) -> dict[str, float]:
    """What one round leaves of tests on clients."""
    reports = []
    of.start(there, start(), 1, on_round=reports.append)
    assert reports[0].tested is None
    return {name: value for name, value in reports[0].metrics.items() if name.startswith("clients/")}


@pytest.mark.parametrize("on_clients", [True, "all", CLIENTS])
@pytest.mark.parametrize("nodes", [1, 3, CLIENTS])
def test_the_means_are_those_over_all_examples(on_clients: Testers, nodes: int) -> None:
    found = measured(of := secure(on_clients), grid(nodes))
    assert found["clients/mse"] == pytest.approx(mse(of, range(CLIENTS)), rel=1e-12)
    assert set(found) == {"clients/loss", "clients/mse"}  # how far clients lie apart is not known


def test_what_the_server_sees_of_a_client_is_no_metric() -> None:
    there = Watched()
    found = measured(secure(), there)
    assert len(there.seen) == CLIENTS and not any(content.metric_records for content in there.seen)
    for content in there.seen:
        (word,) = from_record(content.array_records["masked"]).values()
        assert min(abs(number) for number in exact_words.decode(word)) > 2**20
    assert max(found.values()) < 100


def test_who_is_lost_is_left_out() -> None:
    found = measured(of := secure(), Watched(lost=[1, 4]))
    assert found["clients/mse"] == pytest.approx(mse(of, [0, 2, 3, 5]), rel=1e-12)


def test_too_few_cost_the_test_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert measured(of := secure(), Watched(lost=[1, 4, 5])) == {}
    assert of.finished_rounds == 1 and "what clients found in their tests stays unknown" in caplog.text


def other_names(content: RecordDict) -> RecordDict:
    return RecordDict(
        {**content, "tested": ConfigRecord({**content["tested"], "names": ["examples", "invented", "x"]})}
    )


def shorter(content: RecordDict) -> RecordDict:
    (client, word), *_ = from_record(content.array_records["masked"]).items()
    return RecordDict({**content, "masked": to_record({client: word[:-1]})})


def other_client(content: RecordDict) -> RecordDict:
    (word,) = from_record(content.array_records["masked"]).values()
    return RecordDict({**content, "masked": to_record({"0": word})})


def in_the_open(content: RecordDict) -> RecordDict:
    return RecordDict({"metrics": MetricRecord({"examples": [5.0], "loss": [1.0], "mse": [1.0]})})


@pytest.mark.parametrize("tamper", [other_names, shorter, other_client, in_the_open])
def test_an_answer_that_makes_no_sense_is_left_out(tamper: Tamper, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = measured(of := secure(), Watched(spoilt=3, tamper=tamper))
    assert found["clients/mse"] == pytest.approx(mse(of, [0, 1, 2, 4, 5]), rel=1e-12)
    assert "node 4: " in caplog.text


def test_sums_that_somebody_made_up_are_no_metrics(caplog: pytest.LogCaptureFixture) -> None:
    def no_examples(content: RecordDict) -> RecordDict:
        names = list(content["tested"]["names"])  # type: ignore[arg-type, call-overload]
        (client, word), *_ = from_record(content.array_records["masked"]).items()
        less = exact_words.encode([-1e6 if name == "examples" else 0.0 for name in names])
        return RecordDict({**content, "masked": to_record({client: word + less})})

    with caplog.at_level(logging.WARNING):
        assert measured(secure(), Watched(spoilt=3, tamper=no_examples)) == {}
    assert "metrics of no example" in caplog.text


def test_flowers_own_interface_tests_under_masks_too() -> None:
    found, there = secure(), grid(3)
    found.rounds = 1
    messages = list(found.configure_train(1, start(), None, there))  # type: ignore[arg-type]
    weights, _ = found.aggregate_train(1, there.send_and_receive(messages))
    assert isinstance(weights, ArrayRecord) and arrays(weights)
    messages = list(found.configure_evaluate(1, weights, None, there))  # type: ignore[arg-type]
    metrics = found.aggregate_evaluate(1, there.send_and_receive(messages))
    assert metrics is not None and metrics["clients/mse"] == pytest.approx(mse(found, range(CLIENTS)), rel=1e-12)


@pytest.mark.parametrize(
    ("on_clients", "guard", "reason"),
    [
        (True, GuardSpec(clip=5.0, noise=2.0), r"evaluate\.on_clients=true, .*nothing without noise is told"),
        (1, GuardSpec(clip=5.0), r"evaluate\.on_clients=1 .* a sum over one client is what it found"),
        (40_000, GuardSpec(clip=5.0), "at most 32768 can be added up"),
    ],
)
def test_what_does_not_go_together(on_clients: Testers, guard: GuardSpec, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        secure(on_clients, guard=guard)


def test_tests_change_nothing_else() -> None:
    """Every round agrees on masks anew."""
    train(one := secure(False)), train(other := secure())
    for name, value in one.effective_weights().items():
        assert torch.equal(other.effective_weights()[name], value)


def test_a_server_without_test_data_has_the_means(tmp_path: Path) -> None:
    on = ["secure_aggregation=on", "guard.clip=5", "evaluate.on_clients=all", f"output_dir={tmp_path}/run"]
    run = fedrac.run(*TINY, *on, progress=False)
    assert {"clients/loss", "clients/mse"} <= set(run.summary["last"]) and run.clients.empty
