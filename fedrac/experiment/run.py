"""One run, the same in every runtime: configuration and Grid in, recorded results out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from omegaconf import DictConfig
from torch import Tensor

from fedrac.experiment import client_labels, compose
from fedrac.experiment.prepare import ReadyRun, prepare
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.round_loop import Loop
from fedrac.monitoring.json_log import JsonLog
from fedrac.monitoring.progress import Progress, Watcher
from fedrac.monitoring.status import Status
from fedrac.monitoring.trackers import tracking
from fedrac.protocol.node_config import own_nodes
from fedrac.protocol.round_report import Divergence, RoundReport
from fedrac.results import client_record, node_bindings, own_key
from fedrac.results.checkpoint_schedule import Checkpoints
from fedrac.results.lock import locked
from fedrac.results.record import Record, metrics_line, summarise
from fedrac.training import threads


def run(settings: DictConfig, grid: Grid, output_dir: Path, watcher: Watcher | None = None) -> dict[str, Any]:
    """Runs the configured experiment and records it.

    Args:
        settings: the configuration, as `fedrac.experiment.compose.load` gives it.
        grid: reaches the hosts.
        output_dir: where the results go.
        watcher: is told how it goes; by default it is printed.

    Returns:
        The content of ``summary.json``.

    Raises:
        ValueError: a setting is wrong; nothing has been written then.
        CohortFailure: a round failed; all finished rounds are on disk. If it was a `Divergence`, so is the summary.
        BlockingIOError: another process runs in ``output_dir``.
    """
    with locked(output_dir, f"runs there; fedrac status {output_dir} says how far it is"), threads.of_a_run():
        return _run(settings, grid, output_dir, watcher)


def _run(settings: DictConfig, grid: Grid, output_dir: Path, watcher: Watcher | None) -> dict[str, Any]:
    ready = prepare(settings, grid)
    experiment, strategy = ready.experiment, ready.strategy
    record = _record(ready, settings, output_dir)
    strategy.connected.bindings.watch(node_bindings.read(output_dir), partial(node_bindings.write, output_dir))
    if strategy.keeps_on_nodes:
        strategy.connected.own_key = own_key.of(output_dir)
    checkpoints = Checkpoints(output_dir, experiment.checkpoint, strategy)
    status = Status(output_dir, experiment.rounds, ready.finished, ready.initial)
    shown = watcher or (JsonLog() if experiment.runtime.log == "json" else Progress())
    with tracking(settings.get("track"), settings) as trackers, status, closing(checkpoints):
        watchers: list[Watcher] = [shown, *trackers]
        for each in watchers:
            each.begin(strategy, experiment.rounds, output_dir, ready.now)

        def on_round(report: RoundReport) -> None:
            for told in (record.add, checkpoints.after, status.round, *(each.round for each in watchers)):
                told(report)

        try:
            _train(ready, grid, on_round, checkpoints.before_clients)
        except Divergence:  # that is a result, too
            checkpoints.close()
            record.summarise(experiment.method.name, ready.initial, diverged=True)
            raise
        checkpoints.close()  # who finds a summary finds the weights that it is of
        summary = record.summarise(experiment.method.name, ready.initial)
        for each in watchers:
            each.end(summary)
    return summary


@dataclass(frozen=True, eq=False)
class Unwritten:
    """What a run has found that wrote nothing.

    Attributes:
        lines: what ``metrics.jsonl`` would have.
        summary: what ``summary.json`` would have.
        weights: the merged model's state dict.
        tested: what ``clients.parquet`` would have.
    """

    lines: Sequence[Mapping[str, Any]]
    summary: dict[str, Any]
    weights: Mapping[str, Tensor]
    tested: client_record.Columns


def run_unwritten(settings: DictConfig, grid: Grid, watcher: Watcher) -> Unwritten:
    """As `run`, with results in memory and nothing on disk.

    Raises:
        ValueError: a setting is wrong.
        CohortFailure: a round failed, or diverged.
    """
    with threads.of_a_run():
        return _run_unwritten(settings, grid, watcher)


def _run_unwritten(settings: DictConfig, grid: Grid, watcher: Watcher) -> Unwritten:
    ready = prepare(settings, grid)
    lines: list[dict[str, Any]] = []
    tested: list[client_record.Columns] = []
    with tracking(settings.get("track"), settings) as trackers:
        watchers: list[Watcher] = [*trackers, watcher]
        for each in watchers:
            each.begin(ready.strategy, ready.experiment.rounds, None, ready.now)

        def on_round(report: RoundReport) -> None:
            lines.append(metrics_line(report))
            if report.tested is not None:
                tested.append(client_record.columns_of(report.tested))
            for each in watchers:
                each.round(report)

        _train(ready, grid, on_round)
        summary = summarise(lines, ready.experiment.method.name, ready.initial, tested=tested[-1] if tested else None)
        for each in watchers:
            each.end(summary)
    return Unwritten(lines, summary, ready.strategy.effective_weights(), client_record.joined(tested))


def _record(ready: ReadyRun, settings: DictConfig, output_dir: Path) -> Record:
    """The run's results, with what is known of its data."""
    record = Record(output_dir, compose.to_yaml(settings), ready.finished if settings.resume else None)
    if ready.examples:
        client_labels.write(output_dir, ready.experiment, ready.examples, ready.strategy.connected)
        record.describe(ready.examples.task.name, ready.examples.labels, ready.examples.test.kind)
    return record


def _train(
    ready: ReadyRun,
    grid: Grid,
    on_round: Callable[[RoundReport], None],
    before_clients: Callable[[], None] | None = None,
) -> None:
    experiment = ready.experiment
    ready.strategy.summary()
    loop = Loop(ready.strategy, ready.rounds, grid, experiment.cohort.timeout, ready.test, on_round, before_clients)
    loop.run(experiment.rounds)


def in_process(settings: DictConfig) -> InProcessGrid:
    """The nodes of a run in this process: ``runtime.hosts`` that share the clients, or those with data of their own."""
    return InProcessGrid(client_app.app, own_nodes(settings.partition) or settings.runtime.hosts)
