"""Hydra's configuration: composed from ``conf/`` and overrides, or read from an earlier run."""

import difflib
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fedrac.algorithm.schedule import OF_THE_END
from fedrac.experiment.settings import ConfigError
from fedrac.loading.limits import config_dir as config_dir

log = logging.getLogger(__name__)

# What a run's checkpoint follows from.
_FIXED = (
    "seed", "rank", "partition", "model", "method", "adapt", "sketch.law", "pretrain", "server.average", "guard.noise"
)  # fmt: skip


def split_overrides(text: str) -> list[str]:
    """``"cohort.size=20 rounds=5"`` as a shell would split it."""
    return shlex.split(text)


def extending(overrides: Sequence[str]) -> list[str]:
    """A mapping given as a value extends the one that is there: ``adapt.layers={head: full}`` keeps ``*``."""
    return [f"++{o}" if "={" in o and o[0].isalpha() else o for o in overrides]


def load(overrides: Sequence[str]) -> DictConfig:
    """The configuration with these overrides; with ``resume=DIR`` the one that was saved there.

    Raises:
        ConfigError: an unknown key or group, or an unreadable value, with the nearest that exist.
    """
    overrides = extending(overrides)
    resumed = [o.removeprefix("resume=") for o in overrides if o.startswith("resume=") and o != "resume=null"]
    try:
        if resumed:
            return _load_saved(Path(resumed[-1]), [o for o in overrides if not o.startswith("resume=")])
        settings = of_one_run(_compose(overrides))
        if settings.get("output_dir") is None:
            raise ConfigError("output_dir=null: give a folder")
        settings.output_dir = str(settings.output_dir)
        return settings
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from error


def _compose(overrides: Sequence[str]) -> DictConfig:
    with _hydra():
        config = compose("config", list(overrides))
    OmegaConf.resolve(config)
    return config


@contextmanager
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="fedrac"):
        yield


def of_one_run(settings: DictConfig) -> DictConfig:
    """Without the section ``sweep``, which says how several runs are made."""
    with open_dict(settings):
        settings.pop("sweep")
    return settings


def split_sweep(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str], dict[str, list[str]]]:
    """The parts of a sweep's overrides.

    Returns:
        The section ``sweep`` of the configuration; the overrides that all runs share; and those that are swept, key by
        key with all values, as overrides have them. ``hydra.sweeper.params`` of the configuration, which an experiment
        can set, comes first.

    Raises:
        ConfigError: an unknown key or group, or values that cannot be listed.
    """
    overrides = extending(overrides)
    try:
        with _hydra():
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # which knows a group's options
            given = parser.parse_overrides(list(overrides))
            fixed = [text for text, override in zip(overrides, given, strict=True) if not override.is_sweep_override()]
            whole = compose("config", fixed, return_hydra_config=True)
            keys = {override.get_key_element().lstrip("+~") for override in given}
            params = [f"{k}={v}" for k, v in (whole.hydra.sweeper.params or {}).items() if k not in keys]
            swept = [override for override in [*parser.parse_overrides(params), *given] if override.is_sweep_override()]
            if endless := [override.input_line for override in swept if not override.is_discrete_sweep()]:
                raise ConfigError(f"{endless[0]}: list the values, KEY=V1,V2 or KEY=range(FIRST,END,STEP)")
            axes = {override.get_key_element(): list(override.sweep_string_iterator()) for override in swept}
            fixed += [text for text in params if text.split("=")[0] not in axes]
        return OmegaConf.to_container(whole.sweep, resolve=True), fixed, axes  # type: ignore[return-value]
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from error


def read_saved(folder: Path) -> DictConfig:
    """The configuration that a run has left in its ``output_dir``.

    Raises:
        ConfigError: ``config.yaml`` there is no configuration.
        OSError: it cannot be read.
    """
    path = folder / "config.yaml"
    try:
        saved = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(saved, DictConfig) or not {"seed", "rounds", "partition"} <= {str(key) for key in saved}:
        raise ConfigError(f"{path} is not a run's configuration: it has no seed, rounds and partition")
    return saved


def _load_saved(folder: Path, overrides: Sequence[str]) -> DictConfig:
    if not (path := folder / "config.yaml").is_file():
        raise ConfigError(f"resume={folder}: there is no {path}; give the output_dir of an earlier run")
    saved = read_saved(folder)
    OmegaConf.set_struct(saved, True)
    before = saved.rounds
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = str(override.key_or_group), override.value()
        if fixed := [name for name in _FIXED if f"{key}.".startswith(f"{name}.")]:
            raise ConfigError(f"{key}={value}: a resumed run keeps its {fixed[0]}; start a new run to change it")
        if OmegaConf.is_dict(OmegaConf.select(saved, key)) and not isinstance(value, dict):
            raise ConfigError(f"{key}={value}: a resumed run keeps its {key}; only single keys can change")
        OmegaConf.update(saved, key, value)
    _warn_of_schedules(saved, before)
    OmegaConf.update(saved, "resume", str(folder))
    OmegaConf.update(saved, "output_dir", str(folder))
    return saved


def _warn_of_schedules(settings: DictConfig, before: int) -> None:
    """Where a schedule follows from the number of rounds, and ``before`` they were others."""
    for name in ("local", "server"):
        shape = OmegaConf.select(settings, f"{name}.schedule.shape")
        if settings.rounds != before and shape in OF_THE_END:
            log.warning(
                "rounds=%s: the rounds so far had the %s.schedule (%s) of a run of %s rounds, the others have that of "
                "%s: it is not the run that %s rounds from the start would be",
                settings.rounds, name, shape, before, settings.rounds, settings.rounds,
            )  # fmt: skip


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message, or the nearest keys where the key that it names is unknown."""
    groups = [o for o in overrides if o[:1].isalpha() and (config_dir() / o.split("=")[0]).is_dir()]
    try:
        keys = all_keys(OmegaConf.to_container(_compose(groups)))
    except (HydraException, OmegaConfBaseException, ValueError):  # an unknown option of a group
        return str(error).split("\nConfig search path")[0].strip()
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if key in str(error) and key not in keys and "=" in override and not override.startswith("+"):
            near = difflib.get_close_matches(key, keys, 3, 0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; see fedrac --help"
            own = f" An option of a function of your own begins with a plus: +{override}" if _may_be_own(key) else ""
            return f"there is no key {key!r}{hint}{own}"
    return str(error).split("\nConfig search path")[0].strip()


def _may_be_own(key: str) -> bool:
    """Whether it could be an argument of what a section's ``_target_`` or ``scheme`` names."""
    return key.partition(".")[0] in ("data", "model", "partition", "method") and key.count(".") == 1


def all_keys(node: Any, prefix: str = "") -> list[str]:
    """The dotted keys of a nested mapping, parents before their entries."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [k for key, value in node.items() for k in all_keys(value, f"{prefix}{key}.")]


def to_yaml(config: DictConfig) -> str:
    """The resolved configuration as it is saved with a run."""
    return OmegaConf.to_yaml(config, resolve=True)
