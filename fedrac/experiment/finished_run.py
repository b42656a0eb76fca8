"""A run that has finished rounds, read back from its ``output_dir``."""

import json
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor, nn

from fedrac import models
from fedrac.data import tasks
from fedrac.experiment import compose
from fedrac.experiment.settings import Experiment, parse
from fedrac.results import checkpoint
from fedrac.results.record import read_metrics


@dataclass(frozen=True)
class FinishedRun:
    """What a run leaves.

    Attributes:
        settings: its configuration.
        experiment: the same, checked.
        weights: the merged model's state dict.
        round: the last finished one.
        metrics: by name, as they were last.
        task: what the outputs are.
        labels: what the classes are called, where they have names.
        inputs: what the inputs were: ``float32``, ``int64`` or ``texts``.
    """

    settings: DictConfig
    experiment: Experiment
    weights: dict[str, Tensor]
    round: int
    metrics: dict[str, float]
    task: tasks.Task
    labels: tuple[str, ...]
    inputs: str

    def initial_model(self) -> nn.Module:
        """The model as the configuration describes it, without what the run has learnt."""
        return models.build(self.experiment.model, self.experiment.seed)

    def model(self) -> nn.Module:
        """The model that the run has found, in the dtype of its checkpoint, in evaluation mode."""
        dtype = next(w.dtype for w in self.weights.values() if w.is_floating_point())
        model = self.initial_model().to(dtype)
        model.load_state_dict(self.weights)
        return model.eval()


def read(folder: Path) -> FinishedRun:
    """The run of which ``folder`` is the ``output_dir``.

    Raises:
        FileNotFoundError: it is none, or it has no checkpoint.
        ValueError: its checkpoint is damaged, its configuration is another version's, or its own task is not here.
    """
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} has no config.yaml: give the output_dir of a run")
    settings = compose.read_saved(folder)
    weights, round_ = checkpoint.merged(folder)
    experiment = parse(settings)
    return FinishedRun(settings, experiment, weights, round_, _metrics(folder), *_task(folder, experiment))


def _task(folder: Path, experiment: Experiment) -> tuple[tasks.Task, tuple[str, ...], str]:
    try:
        about = json.loads((folder / "task.json").read_text())
    except FileNotFoundError:  # the server had no data
        about = {"task": experiment.data.get("task") or "classification", "labels": ()}
    # What was written before integers stayed integers has no word of them.
    return tasks.named(about["task"]), tuple(about["labels"]), about.get("inputs", "float32")


def _metrics(folder: Path) -> dict[str, float]:
    lines = read_metrics(folder / "metrics.jsonl")
    return {name: value for line in lines for name, value in line.items() if "/" in name and value is not None}
