"""What a run works with: made, and found to fit, before anything is written."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from flwr.app import MetricRecord
from flwr.serverapp import Grid
from omegaconf import DictConfig
from torch import Tensor, nn

from fedrac import data, models
from fedrac.algorithm.state import ServerState
from fedrac.data import metrics, own
from fedrac.data.batch import batches
from fedrac.experiment import basis, common_scale
from fedrac.experiment.pretrain import initial_weights
from fedrac.experiment.settings import Experiment, parse
from fedrac.experiment.training_objective import objective
from fedrac.flower import one_model, range_round
from fedrac.flower.host import pick_device
from fedrac.flower.round_loop import Test
from fedrac.flower.rounds import Rounds
from fedrac.flower.strategy import FedRacLora
from fedrac.models import norms, weights
from fedrac.partition.partition import NODES
from fedrac.results import checkpoint, node_bindings
from fedrac.results.record import read_metrics
from fedrac.training import evaluation, threads, work

log = logging.getLogger(__name__)

Metrics = dict[str, float]


@dataclass(frozen=True)
class ReadyRun:
    """A run before its first round, or where an earlier one stopped.

    Attributes:
        experiment: the settings.
        strategy: connected to its clients.
        examples: what the server has of the data, if anything.
        test: measures merged weights on them; None: there is nothing to measure, as they have no test part.
        rounds: make the rounds.
        finished: how many rounds have been made already.
        initial, now: the metrics of the weights before round 1, and of those that the run goes on with.
    """

    experiment: Experiment
    strategy: FedRacLora
    examples: data.Data | None
    test: Test | None
    rounds: Rounds
    finished: int
    initial: Metrics
    now: Metrics


def prepare(settings: DictConfig, grid: Grid) -> ReadyRun:
    """Reads the settings, loads what they name, asks the nodes which clients they serve, and tests the first weights.

    Where the nodes are to agree on a common scale of their columns, they do so first, and ``settings`` get it.

    Raises:
        ValueError: a setting is wrong.
        RuntimeError: no node is connected, or one cannot serve.
    """
    common_scale.agree(settings, grid)
    experiment = parse(settings)
    built, examples = one_model.build(experiment.workload()), server_data(experiment)
    model = built.model
    if said := norms.note(model):
        log.info(said)
    strategy = build_strategy(experiment, model, test_on_clients=examples is None or not len(examples.test))
    state = _stopped_at(Path(settings.resume)) if settings.resume else None
    if settings.resume:
        strategy.connected.bindings.watch(node_bindings.read(Path(settings.resume)))
        for line in read_metrics(Path(settings.resume) / "metrics.jsonl"):
            strategy.connected.drawn |= dict.fromkeys(line["cohort"], line["round"])
    with one_model.offered(built):
        strategy.connect(grid)
    torch.set_num_threads(experiment.runtime.threads or _threads(experiment, model, examples, strategy))
    test = _measuring(experiment, model, examples, strategy) if examples else None
    if test is None and experiment.evaluate.metrics:
        raise ValueError(
            f"evaluate.metrics={list(experiment.evaluate.metrics)} are of the server's test part, and it has none: "
            "give it data, or set evaluate.metrics=[]"
        )
    if examples:
        _warn_of_idle_outputs(model, examples, experiment)
    start = initial_weights(experiment, built.weights)
    if state is None:
        _find_basis(experiment, start, strategy, grid)
    initial = now = _measured(test, start) if test else {}
    experiment.checkpoint.check(initial)
    rounds = strategy.open(start, experiment.rounds, state)
    if state is not None:
        now = _measured(test, strategy.effective_weights()) if test else {}
    return ReadyRun(experiment, strategy, examples, test, rounds, strategy.finished_rounds, initial, now)


def _find_basis(experiment: Experiment, start: Mapping[str, Tensor], strategy: FedRacLora, grid: Grid) -> None:
    """Has the strategy know what is fixed of a two-sided run, of the weights before round 1."""
    if not any(block.fixed for block in strategy.blocks):
        return  # a second model is not made for nothing
    if experiment.adapt.basis == "clients":
        found = range_round.find(strategy, start, grid, experiment.cohort.timeout)
        strategy.basis, strategy.guard_before = found.basis, found.guard
        strategy.bytes_before = found.upload_bytes, found.download_bytes
        return
    model = models.build(experiment.model, experiment.seed)
    model.load_state_dict(start)
    strategy.basis = basis.make(experiment, model, tuple(strategy.blocks))


def _threads(experiment: Experiment, model: nn.Module, examples: data.Data | None, strategy: FedRacLora) -> int:
    """As many as a step of the whole cohort has work for; as many as there are where the server knows no example."""
    some = examples and (examples.test if len(examples.test) else examples.train)
    device, dtype = pick_device(experiment.runtime.device), getattr(torch, experiment.runtime.dtype)
    if not some or not len(some) or device.type != "cpu":
        return torch.get_num_threads()
    rows = experiment.server.cohort_size * experiment.local.rows_per_step(strategy.connected.most_examples)
    return threads.fitting(rows * work.of_a_row(model.to(device, dtype), some))


@torch.no_grad()
def _warn_of_idle_outputs(model: nn.Module, examples: data.Data, experiment: Experiment) -> None:
    """Outputs that no class has are trained to be small, and else stand for nothing."""
    if examples.task.name != "classification" or not len(examples.test):
        return
    device, dtype = pick_device(experiment.runtime.device), getattr(torch, experiment.runtime.dtype)
    inputs, _ = next(iter(batches(examples.test.take(np.array([0])), 1, device, dtype)))
    if (width := evaluation.call(model.to(device, dtype).eval(), inputs).shape[-1]) > examples.outputs:
        log.warning(
            "the model has %d outputs, the data have %d classes: is model.outputs=%d meant?",
            width,
            examples.outputs,
            examples.outputs,
        )


def server_data(experiment: Experiment) -> data.Data | None:
    """What the server tests on; None where the nodes have data of their own and the server has nothing."""
    if experiment.partition.get("scheme") != NODES or "path" not in experiment.data:
        common = data.load(experiment.data)
        if not len(common.test):
            log.info("the data have no test part: the clients of every round test on what they train on")
        return common
    found = own.load(experiment.data, experiment.data["path"]) if experiment.data["path"] else None
    return found if found is not None and len(found.test) else None


def build_strategy(experiment: Experiment, model: nn.Module, test_on_clients: bool = False) -> FedRacLora:
    """The strategy that the configuration describes."""
    asked = experiment.evaluate.on_clients
    return FedRacLora(
        model,
        experiment.workload(),
        method=experiment.method,
        adapt=experiment.adapt,
        law=experiment.law,
        local=experiment.local,
        local_schedule=experiment.local_schedule,
        server=experiment.server,
        guard=experiment.guard,
        secure=experiment.secure,
        bits=experiment.bits,
        send_sketch=experiment.send_sketch,
        evaluate_every=experiment.evaluate.every,
        evaluate_on_clients=test_on_clients if asked is False else asked,
    )


def _measuring(experiment: Experiment, model: nn.Module, examples: data.Data, strategy: FedRacLora) -> Test | None:
    """Tests merged weights, where there is a test part, and computes the training objective, where that is wanted."""
    test = tester(experiment, model, examples) if len(examples.test) else None
    if not experiment.evaluate.objective:
        return test
    examples.check_filled("train")
    value = objective(experiment, model, examples, strategy.blocks)

    def both(round_: int, merged: Mapping[str, Tensor]) -> MetricRecord:
        tested = test(round_, merged) if test else None
        return MetricRecord({**(tested or {}), "train/objective": value(merged)})

    return both


def tester(experiment: Experiment, model: nn.Module, examples: data.Data) -> Test:
    """A function that tests merged weights on the server's test examples: ``test/loss`` and the task's metrics."""
    metrics.check(experiment.evaluate.metrics, examples.task.name, "evaluate.metrics")
    names = list(dict.fromkeys([*examples.metrics, *experiment.evaluate.metrics]))
    device, dtype = pick_device(experiment.runtime.device), getattr(torch, experiment.runtime.dtype)
    model = model.to(device, dtype)
    parts = list(batches(examples.test, experiment.evaluate.batch_size, device, dtype))

    def evaluate(round_: int, merged: Mapping[str, Tensor]) -> MetricRecord:
        weights.use(model, merged)
        found = evaluation.measure(model, examples.task, names, parts)
        return MetricRecord({f"test/{name}": value for name, value in found.items()})

    return evaluate


def _measured(test: Test, merged: Mapping[str, Tensor]) -> Metrics:
    return {name: float(value) for name, value in (test(0, merged) or {}).items()}  # type: ignore[arg-type]


def _stopped_at(folder: Path) -> ServerState | None:
    """Where a run stopped; None if that was before its first checkpoint."""
    try:
        return checkpoint.load(folder)
    except FileNotFoundError:
        log.warning("%s has no checkpoint yet: the run starts with round 1", folder)
        return None
