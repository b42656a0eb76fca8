"""A run as a Python object, and two ways to it: making one as the command does, and reading one from its folder."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fedrac.monitoring import status
from fedrac.results import checkpoint, client_record
from fedrac.results.record import read_metrics, summarise

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a run has found, as it was when this was made.

    Attributes:
        config: the settings, nested as in ``config.yaml``.
        summary: the content of ``summary.json``: ``method``, ``rounds``, ``diverged``; ``initial``, ``last`` and
            ``best`` metrics by name; ``upload_bytes``, ``download_bytes`` (payload, summed over clients and rounds),
            ``seconds``. Of a run that has not ended, the same of its rounds so far.
        lines: the content of ``metrics.jsonl``: what was recorded of each round, from 1.
        folder: its ``output_dir``; None: it has written nothing.
        build: makes `model`.
        tested: reads what `clients` shows.
    """

    config: Mapping[str, Any]
    summary: dict[str, Any]
    lines: Sequence[Mapping[str, Any]]
    folder: Path | None
    build: Callable[[], nn.Module]
    tested: Callable[[], client_record.Columns]

    @cached_property
    def history(self) -> "DataFrame":
        """A row a round, with the columns of ``metrics.jsonl``; metrics are nan where they were not taken.

        Round 0 is what was measured before round 1, which costs no bytes and has no cohort.
        """
        import pandas

        begin = {"round": 0, "seconds": 0.0, "cohort": [], "upload_bytes": 0, "download_bytes": 0}
        frame = pandas.DataFrame([{**begin, **self.summary["initial"]}, *self.lines])
        metrics = [name for name in frame.columns if "/" in name]
        order = dict.fromkeys([*(name for line in self.lines for name in line), *frame.columns])
        return frame.astype(dict.fromkeys(metrics, float))[list(order)]

    @cached_property
    def clients(self) -> "DataFrame":
        """A row for each client and tested round: ``round``, ``client``, ``examples`` and the metrics.

        It is empty without ``evaluate.on_clients``.
        """
        import pandas

        found = self.tested()
        return pandas.DataFrame(dict(found), columns=None if found else list(client_record.KEYS))

    @cached_property
    def model(self) -> nn.Module:
        """The model with the merged weights of the last checkpoint, on the CPU and in evaluation mode.

        Raises:
            FileNotFoundError: no round is finished yet.
            ValueError: the model was an object that `fedrac.fit` was given: use ``fedrac.load(folder, model=net)``.
        """
        return self.build()

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={value:.4g}" for name, value in self.summary["last"].items() if "loss" not in name)
        rounds = f"{self.summary['rounds']} of {self.config['rounds']} rounds"
        return f"<Run: {', '.join(filter(None, [self.summary['method'], rounds, last, str(self.folder or '')]))}>"


def run(*overrides: str, progress: bool = True) -> Run:
    """Makes a run as the command ``fedrac KEY=VALUE ...`` does, in this process.

    Args:
        overrides: what follows the command's name, e.g. ``"rounds=20", "cohort.size=20"``; ``"resume=DIR"`` goes on
            with an earlier run.
        progress: print what the command prints.

    Returns:
        The run, as `load` reads it from its ``output_dir``.

    Raises:
        ConfigError: an unknown key, or a wrong value (a ValueError); nothing has been written then.
        CohortFailure: a round failed (a RuntimeError); all finished rounds are on disk. `Divergence`, where numbers
            were not finite any more, is one.
    """
    from fedrac.experiment import compose
    from fedrac.experiment.run import in_process
    from fedrac.experiment.run import run as carry_out
    from fedrac.monitoring.bar import Bar

    settings = compose.load(overrides)
    folder = Path(settings.output_dir).absolute()
    carry_out(settings, in_process(settings), folder, None if progress else Bar(shown=False))
    return load(folder)


def load(folder: str | Path, model: nn.Module | None = None) -> Run:
    """The run of which ``folder`` is the ``output_dir``: finished, diverged, stopped, or still going on.

    Args:
        folder: has at least ``config.yaml``.
        model: the architecture, for the `Run.model` of a run that `fedrac.fit` made; it is copied, not changed.

    Raises:
        FileNotFoundError: it is none.
    """
    place = Path(folder)
    if not (place / "config.yaml").is_file():
        raise FileNotFoundError(f"{place} has no config.yaml: give the output_dir of a run")
    settings = OmegaConf.load(place / "config.yaml")
    assert isinstance(settings, DictConfig)
    config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    lines = read_metrics(place / "metrics.jsonl")
    return Run(
        config,
        _summary(place, config, lines),
        lines,
        place,
        lambda: _model(place, model),
        lambda: client_record.read(place) or {},
    )


def _summary(folder: Path, config: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """That of the run's end, if it has the rounds that there are; a run that goes on has an older one, or none."""
    written = _json(folder / "summary.json")
    if written.get("rounds") == (lines[-1]["round"] if lines else 0):
        return written
    initial = written.get("initial") or _json(folder / status.FILE).get("initial", {})
    tested = client_record.read(folder, last=True)
    return summarise(lines, config["method"]["name"], initial, tested=tested)


def _json(file: Path) -> dict[str, Any]:
    """Its content; empty if it is not there."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return found


def _model(folder: Path, net: nn.Module | None) -> nn.Module:
    from fedrac.experiment import finished_run

    if net is None:
        return finished_run.read(folder).model()
    return merged(net, checkpoint.merged(folder)[0])


def merged(net: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``net`` with these weights, in their dtype, on the CPU and in evaluation mode.

    Raises:
        ValueError: the weights are of another architecture.
    """
    dtype = next(value.dtype for value in weights.values() if value.is_floating_point())
    model = copy.deepcopy(net).to("cpu", dtype)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"model={type(net).__name__} is not the run's architecture: {error}") from error
    return model.eval()
