"""What distinguishes runs, and the groups of runs that differ by their seed alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrac.results.report.runs import Floats, Run, Skipped

# Where a run lies and how it was watched; not what it computes.
_PLACE = ("output_dir", "resume", "seed", "track", "sweep", "data.path", "data.test_path", "runtime.hosts")
_FIRST = ("method.name", "method.side", "rank")
# In the order, and with the colours, that they have in every figure.
METHODS = (
    "Fed-RAC-LoRA",
    "FedAvg",
    "AsymmLoRA",
    "FedAvg-LoRA",
    "Fed-COLA",
    "FLoRA",
    "FedEx-LoRA",
    "Two-sided",
    "Fed-SB",
)
_NAMES = {
    "method.name": "method",
    "method.side": "sketch",
    "sketch.law": "law",
    "cohort.size": "cohort size",
    "local.lr": "learning rate",
    "local.epochs": "local epochs",
    "local.batch_size": "batch size",
    "partition.alpha": "Dirichlet alpha",
    "partition.scheme": "partition",
    "partition.clients": "clients",
    "server.eta": "server step",
    "data._target_": "data",
    "model._target_": "model",
}


def key_name(key: str) -> str:
    """How a key of the configuration is called in figures and tables."""
    return _NAMES.get(key, key)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        values: of the keys that distinguish it from the other groups.
        runs: the finished ones; all, if none is finished.
        remark: what became of the others.
    """

    values: Mapping[str, Any]
    runs: Sequence[Run]
    remark: str = ""

    @property
    def label(self) -> str:
        """Its values, e.g. ``Fed-RAC-LoRA, rank 4``."""
        return ", ".join(show(key, value) for key, value in self.values.items()) or self.runs[0].config.get(
            "method.name", "all runs"
        )

    def rounds(self, metric: str) -> Floats:
        """The rounds at which every run has the metric, (points,), ascending."""
        sets = [run.columns["round"][np.isfinite(run.columns[metric])] for run in self.runs if metric in run.columns]
        common = sets[0] if len(sets) == len(self.runs) else np.empty(0)
        for other in sets[1:]:
            common = np.intersect1d(common, other)
        return np.asarray(common)

    def initial(self, metric: str) -> Floats:
        """(runs,): a test metric before round 1; nan where it is not known."""
        return np.array([run.initial.get(metric, np.nan) for run in self.runs])

    def values_at(self, column: str, rounds: Floats) -> Floats:
        """(runs, len(rounds)): a metric, or the running total of bytes or seconds."""
        rows = []
        for run in self.runs:
            values = run.columns[column] if "/" in column or column == "round" else run.total(column)
            rows.append(values[np.searchsorted(run.columns["round"], rounds)])
        return np.array(rows)


def show(key: str, value: Any) -> str:
    """A value with the name of its key; names speak for themselves."""
    text = f"{value:g}" if isinstance(value, float) else str(value).removeprefix("fedrac.")
    return text if key in ("method.name", "partition.scheme") else f"{key_name(key)} {text}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Groups of runs.

    Attributes:
        keys: the fewest keys that tell the groups apart.
        groups: in the order of their values.
        differences: every key that has more than one value, with its values.
        left_out: runs that repeat another one.
    """

    keys: Sequence[str]
    groups: Sequence[Group]
    differences: Mapping[str, Sequence[Any]]
    left_out: Sequence[Skipped]

    @property
    def runs(self) -> list[Run]:
        """Those that are used."""
        return [run for group in self.groups for run in group.runs]

    def metrics(self) -> list[str]:
        """Every metric that a run has: accuracy first, training last."""
        names = {name for run in self.runs for name in run.metrics()}
        return sorted(names, key=lambda n: (not n.startswith("test/"), n.startswith("train/"), n.endswith("loss"), n))


def is_spread(metric: str) -> bool:
    """Whether it says how far clients lie apart (`fedrac.protocol.client_evaluation.spread`)."""
    return metric.startswith(("clients/mean_", "clients/worst10_", "clients/sd_"))


def compare(runs: Sequence[Run]) -> Comparison:
    """Finds the keys that distinguish the runs, and puts runs together that these do not tell apart."""
    differences = _differences(runs)
    keys = _fewest(runs, sorted(differences, key=_rank))
    sets: dict[str, list[Run]] = {}
    for run in runs:
        sets.setdefault(_identity(run, keys), []).append(run)
    left_out: list[Skipped] = []
    groups = []
    for members in sets.values():
        once = _without_repeats(members, left_out)
        finished = [run for run in once if run.rounds >= run.planned and not run.diverged]
        values = {key: once[0].config.get(key, "—") for key in keys}
        groups.append(Group(values, finished or once, _remark(once, len(finished))))
    groups.sort(key=lambda group: [order(value) for value in group.values.values()])
    return Comparison(keys, groups, differences, left_out)


def _remark(runs: Sequence[Run], finished: int) -> str:
    """What is special about the runs of a group that did not finish; they are used only if none did."""
    diverged = [run for run in runs if run.diverged]
    unfinished = len(runs) - finished - len(diverged)
    said = (
        [f"{len(diverged)} of {len(runs)} diverged, after round {min(run.rounds for run in diverged)}"]
        if diverged
        else []
    )
    if unfinished:
        at = max(run.rounds for run in runs if not run.diverged)
        left_out = f"{unfinished} of {len(runs)} unfinished, left out"
        said.append(left_out if finished else f"unfinished: {at} of {runs[0].planned} rounds")
    return "; ".join(said)


def _differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for run in runs for key in run.config)
    found: dict[str, list[Any]] = {}
    for key in keys:
        if key in _PLACE or key.split(".")[0] in _PLACE:
            continue
        values = {str(run.config.get(key, "—")): run.config.get(key, "—") for run in runs}
        if len(values) > 1:
            found[key] = sorted(values.values(), key=order)
    return found


def _fewest(runs: Sequence[Run], candidates: Sequence[str]) -> list[str]:
    """Keys from the front, but only those that tell runs apart which the ones before do not."""
    keys: list[str] = []
    parts = 1
    for key in candidates:
        refined = len({_identity(run, [*keys, key]) for run in runs})
        if refined > parts:
            keys.append(key)
            parts = refined
    return keys


def _rank(key: str) -> tuple[int, int]:
    """What people speak of first: the method, then settings of few words; a method's own switches last."""
    place = _FIRST.index(key) if key in _FIRST else len(_FIRST)
    return place, key.count(".") + 2 * key.startswith(("method.", "adapt.", "data.", "model.", "pretrain."))


def _identity(run: Run, keys: Sequence[str]) -> str:
    return "\0".join(str(run.config.get(key, "—")) for key in keys)


def _without_repeats(members: Sequence[Run], left_out: list[Skipped]) -> list[Run]:
    best: dict[int, Run] = {}
    for run in members:
        other = best.get(run.seed)
        if other is None or run.rounds > other.rounds:
            best[run.seed], run = run, other or run
        if run is not best[run.seed]:
            left_out.append((run.name, f"the same settings and seed as {best[run.seed].name}, which is used"))
    return [best[seed] for seed in sorted(best)]


def order(value: Any) -> tuple[int, float, str]:
    """Sorts numbers before words, and methods as in `METHODS`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, METHODS.index(value) if value in METHODS else len(METHODS), str(value)
