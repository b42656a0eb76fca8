"""The typed settings of one run, every value checked before work starts."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.algorithm import peft_names
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.rounding import BitsSpec
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.selection import SelectionSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.simulated_time import SystemSpec
from fedrac.algorithm.sketch import Law
from fedrac.experiment.sections import (
    BasisSpec,
    Bits,
    CohortSpec,
    EvaluateSpec,
    PretrainSpec,
    RuntimeSpec,
    SketchConfig,
)
from fedrac.flower.round_settings import Send
from fedrac.loading.limits import Refused
from fedrac.monitoring import trackers
from fedrac.protocol import method_settings
from fedrac.results.checkpoint_schedule import CheckpointSpec
from fedrac.training.optimizer import LocalSpec

T = TypeVar("T")

_SECTIONS = (
    *("data", "partition", "model", "method", "adapt", "sketch", "local", "server", "guard"),
    *("secure_aggregation", "cohort", "evaluate"),
    *("upload", "download", "checkpoint", "pretrain", "basis", "runtime"),
)
_KEYS = {"seed", "rounds", "rank", "output_dir", "resume", "track", "system", *_SECTIONS}


class ConfigError(ValueError):
    """A key or value of the configuration is wrong; the message says which and what would be right."""


@dataclass(frozen=True)
class Experiment:
    """Everything that one run follows, checked.

    Attributes:
        seed: all randomness follows from it.
        rounds: the last round's number, T.
        data, partition, model: as their packages read them (`fedrac.data`, `fedrac.partition`, `fedrac.models`).
        method: the four choices.
        adapt: which parameters are trained, at which rank.
        law, send_sketch: of the random factor, and how it reaches the hosts.
        local, local_schedule: how clients train; their learning rate over rounds.
        server: cohort, averaging and server step.
        guard: clipping, robust means, noise.
        secure: secure aggregation.
        bits: ``upload.bits`` and ``download.bits``.
        cohort, evaluate, checkpoint, pretrain, basis, runtime: the sections of the configuration of that name.
    """

    seed: int
    rounds: int
    data: Mapping[str, Any]
    partition: Mapping[str, Any]
    model: Mapping[str, Any]
    method: Method
    adapt: AdaptSpec
    law: Law
    send_sketch: Send
    local: LocalSpec
    local_schedule: ScheduleSpec
    server: ServerSpec
    guard: GuardSpec
    secure: SecureSpec
    bits: BitsSpec
    cohort: CohortSpec
    evaluate: EvaluateSpec
    checkpoint: CheckpointSpec
    pretrain: PretrainSpec
    basis: BasisSpec
    runtime: RuntimeSpec

    def workload(self) -> dict[str, Any]:
        """What hosts need to know of it."""
        runtime: dict[str, Any] = {"dtype": self.runtime.dtype, "device": self.runtime.device}
        if self.runtime.base_bits is not None:
            runtime["base_bits"] = self.runtime.base_bits
        partition = {k: v for k, v in self.partition.items() if k != "folders"}  # a node knows its own
        return {
            "data": self.data, "partition": partition, "model": self.model, "seed": self.seed, **runtime
        }  # fmt: skip


def parse(config: DictConfig) -> Experiment:
    """Checks every value and gives it its type.

    Raises:
        ConfigError: a value is out of its range or of the wrong type.
    """
    raw: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if unknown := sorted(set(raw) - _KEYS, key=str):
        raise ConfigError(f"there is no key {unknown[0]!r}; the keys are {', '.join(sorted(_KEYS))}")
    raw.setdefault("secure_aggregation", {})  # runs of earlier versions have none
    for name in _SECTIONS:
        if not isinstance(raw.get(name), dict):
            raise ConfigError(f"{name}={raw.get(name)!r} must be a group of keys")
    if gone := [name for name in ("data", "model") if "_target_" not in raw[name]]:
        raise ConfigError(f"{gone[0]} has no _target_: choose an option of the group, {gone[0]}=NAME")
    try:
        trackers.check(raw.get("track"))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    local, server = dict(raw["local"]), dict(raw["server"])
    cohort = _typed(CohortSpec, raw["cohort"], "cohort")
    local.pop("max_rows", None)  # what max_tokens bounds now, in runs of before
    local_schedule = _typed(ScheduleSpec, local.pop("schedule", {}), "local.schedule")
    server["schedule"] = _typed(ScheduleSpec, server.get("schedule", {}), "server.schedule")
    server |= {"cohort_size": cohort.size, "min_fraction": cohort.min_fraction}
    server["selection"] = _typed(SelectionSpec, {"rule": cohort.selection, "available": cohort.available}, "cohort")
    server["system"] = _typed(SystemSpec, raw.get("system") or {}, "system")
    sketch = _typed(SketchConfig, raw["sketch"], "sketch")
    evaluate = _typed(EvaluateSpec, raw["evaluate"], "evaluate")
    counts = {"rounds": raw.get("rounds"), "evaluate.every": evaluate.every, "evaluate.batch_size": evaluate.batch_size}
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name}={value!r} must be a whole number of at least 1")
    if type(raw.get("seed")) is not int or raw["seed"] < 0:
        raise ConfigError(f"seed={raw.get('seed')!r} must be a whole number, 0 or more")
    return Experiment(
        seed=raw["seed"],
        rounds=raw["rounds"],
        data=_absolute(raw["data"]) | ({} if evaluate.validation is None else {"validation": evaluate.validation}),
        partition=raw["partition"],
        model={**raw["model"], **_folder(raw["model"], "checkpoint")},
        method=_method(raw["method"]),
        adapt=_typed(AdaptSpec, _patterns(raw), "adapt"),
        law=sketch.law,
        send_sketch=sketch.send,
        local=_typed(LocalSpec, local, "local"),
        local_schedule=local_schedule,
        server=_typed(ServerSpec, server, "server"),
        guard=_typed(GuardSpec, raw["guard"], "guard"),
        secure=_typed(SecureSpec, raw["secure_aggregation"], "secure_aggregation"),
        bits=_typed(BitsSpec, {name: _typed(Bits, raw[name], name).bits for name in ("upload", "download")}, "bits"),
        cohort=cohort,
        evaluate=evaluate,
        checkpoint=_typed(CheckpointSpec, raw["checkpoint"], "checkpoint"),
        pretrain=_typed(PretrainSpec, raw["pretrain"], "pretrain"),
        basis=_typed(BasisSpec, _absolute_basis(raw["basis"]), "basis"),
        runtime=_typed(RuntimeSpec, raw["runtime"], "runtime"),
    )


def _method(section: Mapping[str, Any]) -> Method:
    try:
        kind = method_settings.kind_of(section)
    except Refused:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return _typed(kind, {key: value for key, value in section.items() if key != "_target_"}, "method")


def _absolute(data: Mapping[str, Any]) -> dict[str, Any]:
    """Paths of files as seen from here: hosts run elsewhere."""
    paths = {key: data[key] for key in ("path", "test_path") if data.get(key)}
    files = {key: str(Path(path).expanduser().absolute()) for key, path in paths.items()}
    return {**data, **files, **_folder(data, "tokenizer")}


def _absolute_basis(section: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**section, "data": _absolute(section["data"])} if isinstance(section.get("data"), dict) else section


def _folder(section: Mapping[str, Any], key: str) -> dict[str, str]:
    """A checkpoint's folder as seen from here; what is no folder may be a name on a hub."""
    folder = Path(str(section.get(key))).expanduser()
    return {key: str(folder.absolute())} if section.get(key) and folder.is_dir() else {}


def _patterns(raw: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return peft_names.patterns(raw["adapt"], raw.get("rank"))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _typed(kind: type[T], values: Mapping[str, Any], section: str) -> T:
    """A frozen dataclass from a section of the configuration, every field checked against its annotation."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or known
            raise ConfigError(f"there is no key {section}.{name}; did you mean {section}.{near[0]}?")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([section, *map(str, first["loc"])])
        if first["type"] == "value_error":
            raise ConfigError(str(first["ctx"]["error"])) from error
        raise ConfigError(f"{place}={first['input']!r}: {first['msg']}") from error
