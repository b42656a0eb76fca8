"""Runs followed in TensorBoard, MLflow or Weights & Biases, with the numbers that ``metrics.jsonl`` gets."""

import importlib.util
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import metrics_line, to_json, write_atomically

_PARAMS_AT_ONCE = 100  # MLflow's limit


class Tracker(Protocol):
    """A program that shows numbers over rounds."""

    def open(self, folder: Path, settings: DictConfig, finished: int) -> None:
        """A run begins, or goes on after ``finished`` rounds."""

    def log(self, values: Mapping[str, float], round_: int) -> None:
        """Numbers of one round."""

    def close(self, good: bool) -> None:
        """The run has ended; ``good``: not by an error."""


class TensorBoard:
    """Event files in the run's folder ``tensorboard``."""

    def open(self, folder: Path, settings: DictConfig, finished: int) -> None:
        """Events after round ``finished``, of a run that was cut off, do not count any more."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=finished + 1 if finished else None)
        self._writer.add_text("config", f"```yaml\n{OmegaConf.to_yaml(settings, resolve=True)}```")

    def log(self, values: Mapping[str, float], round_: int) -> None:
        """On disk at once, so that TensorBoard shows it while the run goes on."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, round_)
        self._writer.flush()

    def close(self, good: bool) -> None:
        """Closes the file."""
        self._writer.close()


class MLflow:
    """A run on the server, or in the store, that ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` name."""

    def open(self, folder: Path, settings: DictConfig, finished: int) -> None:
        """A run that goes on keeps its id, which is in ``mlflow.json``."""
        import os

        from mlflow import MlflowClient

        self._client, about = MlflowClient(), folder / "mlflow.json"
        if finished and about.exists():
            self._run = str(json.loads(about.read_text())["run_id"])
            self._client.update_run(self._run, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedrac")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=folder.name).info.run_id
        write_atomically(about, to_json({"run_id": self._run}) + "\n")
        self._log_params(settings)

    def _log_params(self, settings: DictConfig) -> None:
        from mlflow.entities import Param

        from fedrac.results.report.runs import flat

        values = flat(OmegaConf.to_container(settings, resolve=True))
        params = [Param(re.sub(r"[^\w\-. /:]", "_", key), str(value)) for key, value in values]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._run, params=params[start : start + _PARAMS_AT_ONCE])

    def log(self, values: Mapping[str, float], round_: int) -> None:
        """One request a round."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, round_) for name, value in values.items()])

    def close(self, good: bool) -> None:
        """The run's status is FINISHED or FAILED."""
        self._client.set_terminated(self._run, "FINISHED" if good else "FAILED")


class WandB:
    """A run in the project that ``WANDB_PROJECT`` names (``fedrac``); its files are in the run's folder ``wandb``.

    With ``WANDB_MODE=offline`` nothing leaves the machine: ``wandb sync`` sends it later.
    """

    def open(self, folder: Path, settings: DictConfig, finished: int) -> None:
        """A run that goes on keeps its id, which is in ``wandb.json``.

        Rounds that are done again are logged again, with the same numbers; W&B keeps the first ones.
        """
        import os

        import wandb

        config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
        about = folder / "wandb.json"
        if not (finished and about.exists()):
            write_atomically(about, to_json({"run_id": uuid.uuid4().hex[:12]}) + "\n")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fedrac"),
            name=folder.name,
            dir=folder,
            id=str(json.loads(about.read_text())["run_id"]),
            resume="allow",
            config=config,
            settings=wandb.Settings(console="off", save_code=False),  # what is printed and run stays here
        )

    def log(self, values: Mapping[str, float], round_: int) -> None:
        """On disk at once; it is sent, where it is, in the background."""
        self._run.log(dict(values), step=round_)

    def close(self, good: bool) -> None:
        """The run is finished or failed; waits until all is sent."""
        self._run.finish(exit_code=0 if good else 1)


_TRACKERS: Mapping[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def check(name: Any) -> None:
    """
    Raises:
        ValueError: there is no such tracker, or it is not installed.
    """
    if name is None:
        return
    if name not in _TRACKERS:
        raise ValueError(f"track={name!r} is unknown: choose {', '.join(_TRACKERS)} or null")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"track={name}: {name} is not installed; pip install 'fedrac[{name}]'")


class Tracking:
    """Watches a run for a tracker; see `fedrac.monitoring.progress.Watcher`."""

    def __init__(self, tracker: Tracker, settings: DictConfig) -> None:
        self._tracker, self._settings, self._open = tracker, settings, False

    def begin(self, strategy: FedRacLora, rounds: int, folder: Path | None, initial: Mapping[str, float]) -> None:
        """The test metrics before round 1 count as those of round 0.

        Raises:
            ValueError: the run has no folder.
        """
        if folder is None:
            raise ValueError(f"track={self._settings.track}: a run that is followed needs an output_dir")
        finished = strategy.finished_rounds
        self._tracker.open(folder, self._settings, finished)
        self._open = True
        if not finished:
            self._tracker.log(initial, 0)

    def round(self, report: RoundReport) -> None:
        """All numbers of the round's line in ``metrics.jsonl``."""
        line = metrics_line(report)
        numbers = {k: float(v) for k, v in line.items() if isinstance(v, int | float) and k != "round"}
        self._tracker.log(numbers, report.round)

    def end(self, summary: Mapping[str, Any]) -> None:
        """All numbers are there already."""

    def close(self, good: bool) -> None:
        """However the run ended, if it has begun."""
        if self._open:
            self._tracker.close(good)


@contextmanager
def tracking(name: str | None, settings: DictConfig) -> Iterator[list[Tracking]]:
    """The watchers that ``track`` of the configuration asks for: one or none."""
    watchers = [Tracking(_TRACKERS[name](), settings)] if name else []
    good = False
    try:
        yield watchers
        good = True
    finally:
        for watcher in watchers:
            watcher.close(good)
