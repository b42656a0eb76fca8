"""One run, the same in every runtime: configuration and Grid in, recorded results out."""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from omegaconf import DictConfig
from torch import nn

from fedrac import census, checkpoint, client, config, data, evaluation, models
from fedrac.batch import batches
from fedrac.checkpointing import Checkpoints
from fedrac.data import own
from fedrac.experiment import Experiment, parse
from fedrac.grid import InProcessGrid
from fedrac.host import pick_device
from fedrac.json_log import JsonLog
from fedrac.messages import from_record, to_record
from fedrac.node_config import own_nodes
from fedrac.objective import objective
from fedrac.partition import NODES
from fedrac.pretrain import initial_weights
from fedrac.progress import Progress, Watcher
from fedrac.record import Record
from fedrac.round_report import Divergence, RoundReport
from fedrac.server import ServerState
from fedrac.status import Status
from fedrac.strategy import FedRacLora
from fedrac.track import tracking

log = logging.getLogger(__name__)


def run(settings: DictConfig, grid: Grid, output_dir: Path, watcher: Watcher | None = None) -> dict[str, Any]:
    """Runs the configured experiment and records it.

    Args:
        settings: the configuration, as `fedrac.config.load` gives it.
        grid: reaches the hosts.
        output_dir: where the results go.
        watcher: is told how it goes; by default it is printed.

    Returns:
        The content of ``summary.json``.

    Raises:
        ValueError: a setting is wrong; nothing has been written then.
        CohortFailure: a round failed; all finished rounds are on disk. If it was a `Divergence`, so is the summary.
    """
    experiment = parse(settings)
    if experiment.runtime.threads is not None:
        torch.set_num_threads(experiment.runtime.threads)
    model, examples = models.build(experiment.model, experiment.seed), server_data(experiment)
    strategy = build_strategy(experiment, model, test_on_clients=examples is None)
    state = _stopped_at(Path(settings.resume)) if settings.resume else None
    strategy.connect(grid)
    test = tester(experiment, model, examples) if examples else None
    if test and examples and experiment.evaluate.objective:
        examples.check_filled("train")
        test = _with_objective(test, objective(experiment, model, examples, strategy.blocks))
    start = to_record(initial_weights(experiment))
    initial = now = _floats(test(0, start)) if test else {}
    experiment.checkpoint.check(initial)
    if state is not None:
        strategy.state = state
        now = _floats(test(0, to_record(strategy.effective_weights()))) if test else {}
    finished = state.round if state else 0
    record = Record(output_dir, config.to_yaml(settings), finished if settings.resume else None)
    if examples:
        census.write(output_dir, experiment, examples, strategy.population)
        record.describe(examples.task, examples.labels)
    checkpoints = Checkpoints(output_dir, experiment.checkpoint, strategy)
    status = Status(output_dir, experiment.rounds, finished)
    shown = watcher or (JsonLog() if experiment.runtime.log == "json" else Progress())
    with tracking(settings.get("track"), settings) as trackers, status, closing(checkpoints):
        watchers: list[Watcher] = [shown, *trackers]
        for each in watchers:
            each.begin(strategy, experiment.rounds, output_dir, now)

        def on_round(report: RoundReport) -> None:
            record.add(report)
            checkpoints.after(report)
            status.round(report)
            for each in watchers:
                each.round(report)

        timeout = experiment.cohort.timeout
        try:
            strategy.start(
                grid,
                start,
                experiment.rounds,
                timeout,
                evaluate_fn=test,
                state=state,
                on_round=on_round,
                before_clients=checkpoints.before_clients,
            )
        except Divergence:  # that is a result, too
            record.summarise(experiment.method.name, initial, diverged=True)
            raise
        summary = record.summarise(experiment.method.name, initial)
        for each in watchers:
            each.end(summary)
    return summary


def _stopped_at(folder: Path) -> ServerState | None:
    """Where a run stopped; None if that was before its first checkpoint."""
    try:
        return checkpoint.load(folder)
    except FileNotFoundError:
        log.warning("%s has no checkpoint yet: the run starts with round 1", folder)
        return None


def _with_objective(
    test: Callable[[int, ArrayRecord], MetricRecord], value: Callable[[ArrayRecord], float]
) -> Callable[[int, ArrayRecord], MetricRecord]:
    def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({**test(round_, arrays), "train/objective": value(arrays)})

    return evaluate


def _floats(metrics: MetricRecord) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}  # type: ignore[arg-type]


def in_process(settings: DictConfig) -> InProcessGrid:
    """The nodes of a run in this process: ``runtime.hosts`` that share the clients, or those with data of their own."""
    return InProcessGrid(client.app, own_nodes(settings.partition) or settings.runtime.hosts)


def server_data(experiment: Experiment) -> data.Data | None:
    """What the server tests on; None where the nodes have data of their own and the server has nothing."""
    if experiment.partition.get("scheme") != NODES or "path" not in experiment.data:
        return data.load(experiment.data)
    found = own.load(experiment.data, experiment.data["path"]) if experiment.data["path"] else None
    return found if found is not None and len(found.test) else None


def build_strategy(experiment: Experiment, model: nn.Module, test_on_clients: bool = False) -> FedRacLora:
    """The strategy that the configuration describes."""
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
        send_sketch=experiment.send_sketch,
        evaluate_every=experiment.evaluate.every,
        evaluate_on_clients=experiment.evaluate.on_clients or test_on_clients,
    )


def tester(experiment: Experiment, model: nn.Module, examples: data.Data) -> Callable[[int, ArrayRecord], MetricRecord]:
    """A function that tests merged weights on the server's test examples: ``test/loss`` and the task's metrics."""
    device, dtype = pick_device(experiment.runtime.device), getattr(torch, experiment.runtime.dtype)
    model = model.to(device, dtype)
    parts = list(batches(examples.test, experiment.evaluate.batch_size, device, dtype))

    def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(from_record(arrays))
        found = evaluation.measure(model, examples.task, examples.metrics, parts)
        return MetricRecord({f"test/{name}": value for name, value in found.items()})

    return evaluate
