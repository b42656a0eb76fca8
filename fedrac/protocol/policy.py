"""What a node allows: a file of its operator's own, ``--node-config 'policy="/node/policy.yaml"'``.

Runs and servers are other people's. A node without such a file has the strict one, which is what `Policy` has by
default; one with ``policy="open"`` does whatever it is told, and so does Flower's simulation, where who starts a run is
who owns the machine.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from fedrac.aggregation import privacy
from fedrac.algorithm.blocks import Block
from fedrac.algorithm.weights import adaptable
from fedrac.loading import limits
from fedrac.loading.limits import Limits, Refused
from fedrac.loading.told import told
from fedrac.protocol.messages import RoundSpec
from fedrac.protocol.processes import simulated

OPEN = "open"
OWN = "fedrac's own"


@dataclass(frozen=True)
class Policy:
    """One node's.

    Attributes:
        loaders, models, methods: import paths that ``data``, ``model`` and ``method`` of a run may name; None: fedrac's
            own.
        functions: import paths that anything else may name: metrics, partition schemes, nested targets.
        folders: below which settings may name files. A node's ``data`` is one; who has no ``data`` opens no others.
        least_examples: a client with fewer is neither trained nor tested.
        least_cohort: a round of fewer clients is not taken part in. Their number is what the server says.
        most_rounds, most_messages: of a run, whatever the server says; counted across restarts.
        train: patterns of the parameters that may be trained.
        full: patterns of those that may be trained in full.
        full_first: also the weight of the first layer, whose full update may be made of the records themselves.
        most_rank: of an update.
        evaluate: whether the model is tested here.
        secure: whether updates leave the node under masks alone (``secure_aggregation=on``).
        clip: bound on how far an update moves the weights, a Frobenius norm, as ``guard.clip``; None: none.
        noise: standard deviation of Gaussian noise that the node adds to every entry of an update, in units of
            ``clip``.
        delta: what the noise buys is told as epsilon at this delta.
        most_epsilon: the node trains no more once it is spent, over all runs; None: never.

    Raises:
        ValueError: a value is out of its range, or goes with another one only.
    """

    __pydantic_config__ = ConfigDict(strict=False, extra="forbid")

    loaders: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    functions: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    least_examples: int = 10
    least_cohort: int = 1
    most_rounds: int = 1000
    most_messages: int = 5000
    train: tuple[str, ...] = ("*",)
    full: tuple[str, ...] = ("*",)
    full_first: bool = False
    most_rank: int = 64
    evaluate: bool = True
    secure: bool = False
    clip: float | None = None
    noise: float = 0.0
    delta: float = 1e-5
    most_epsilon: float | None = None

    def __post_init__(self) -> None:
        for name in ("least_examples", "least_cohort", "most_rounds", "most_messages", "most_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        for name in ("clip", "most_epsilon"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: {value} must be positive")
        if not (0 <= self.noise < math.inf and 0 < self.delta < 1):
            raise ValueError(f"noise: {self.noise} must not be negative, and delta: {self.delta} lie between 0 and 1")
        if self.noise and (self.clip is None or self.evaluate):
            raise ValueError(
                "noise: hides updates of bounded length only: set clip, and evaluate: false, as tests are exact"
            )
        if self.most_epsilon is not None and not self.noise:
            raise ValueError("most_epsilon: counts what noise costs: set noise")
        if relative := [folder for folder in self.folders if not folder.startswith(("/", "~"))]:
            raise ValueError(f"folders: {relative[0]} must be an absolute path")
        if self.noise:
            privacy.require()

    def limits(self, data: str | None = None) -> Limits:
        """What settings may name here.

        Args:
            data: the place of the node's own data, if it has such.
        """
        places = [*self.folders, *([data] if data and data.startswith(("/", "~")) else [])]
        names = {
            "loaders": limits.own("data") if self.loaders is None else frozenset(self.loaders),
            "models": limits.own("model") if self.models is None else frozenset(self.models),
            "methods": limits.own("method") if self.methods is None else frozenset(self.methods),
            "functions": frozenset(self.functions),
        }
        return Limits(names, tuple(Path(place).expanduser().resolve() for place in places))

    def check_round(self, spec: RoundSpec, blocks: tuple[Block, ...], model: nn.Module) -> None:
        """Raises `Refused` if the node takes no part in such a round."""
        if spec.cohort < self.least_cohort:
            raise Refused(f"a round of {spec.cohort} clients is not taken part in", "least_cohort")
        if self.secure and spec.grid is None:
            raise Refused("updates leave this node under masks alone: set secure_aggregation=on", "secure")
        weights = adaptable(model)
        first = {place for weight in weights if weight.layer == weights[0].layer for place in weight.places}
        for block in blocks:
            self._check_block(block, bool(first & set(block.owners)))

    def _check_block(self, block: Block, first: bool) -> None:
        if not _matches(block.name, self.train):
            raise Refused(f"{block.name} may not be trained", "train")
        # A factor that is as large as the weight tells as much of it as the weight itself.
        full = block.rank is None or block.update_rank >= min(block.m, block.n)
        if full and first and not self.full_first:
            raise Refused(f"{block.name} of the first layer may not be trained in full", "full_first")
        if full and not _matches(block.name, self.full):
            raise Refused(f"{block.name} may not be trained in full", "full")
        if block.rank is not None and block.update_rank > self.most_rank:
            raise Refused(f"{block.name}: an update of rank {block.update_rank} may not be trained", "most_rank")

    def lines(self) -> list[str]:
        """What the node allows, one line a key, for its own people."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        own = ("loaders", "models", "methods")
        return [f"{name}: {OWN if name in own and v is None else _shown(v)}" for name, v in values]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shown(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class PolicyFile:
    """A policy and where its lines are.

    Attributes:
        policy: what the file says.
        places: number of the line of every key that it has.
    """

    policy: Policy
    places: Mapping[str, int]

    def place(self, key: str) -> str:
        """Where the file speaks of ``key``."""
        return f"line {self.places[key]} there" if key in self.places else "the default"


STRICT = PolicyFile(Policy(), {})


def read(path: Path) -> PolicyFile:
    """Reads a policy.

    Raises:
        ValueError: it is no YAML mapping, has an unknown key, or a wrong value; the message names the line.
        OSError: it cannot be read.
    """
    return _read(path, path.stat().st_mtime_ns)


@lru_cache
def _read(path: Path, changed: int) -> PolicyFile:
    text = path.read_text(encoding="utf-8")
    try:
        root, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    if values is None:
        return STRICT
    if not isinstance(values, dict):
        raise ValueError(f"{path} must have lines KEY: VALUE")
    places = {key.value: key.start_mark.line + 1 for key, _ in root.value}
    known = [f.name for f in fields(Policy)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1) or known
            raise ValueError(f"{path}, line {places.get(key)}: there is no key {key}; did you mean {near[0]}?")
    return PolicyFile(_policy(path, values, places), places)


def _policy(path: Path, values: Mapping[str, Any], places: Mapping[str, int]) -> Policy:
    try:
        return TypeAdapter(Policy).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":
            key = str(first["ctx"]["error"]).partition(":")[0]
            raise ValueError(f"{path}, line {places.get(key)}: {first['ctx']['error']}") from error
        key = str(first["loc"][0])
        raise ValueError(f"{path}, line {places[key]}: {key}: {first['input']!r}: {first['msg']}") from error


def of_node(named: str | None) -> PolicyFile | None:
    """The policy that a node-config names; None: everything is allowed.

    Args:
        named: a path, `OPEN`, or None: the strict one, but for a simulation.

    Raises:
        ValueError: as for `read`; the server is told no more than that.
    """
    if named == OPEN or (named is None and simulated()):
        return None
    if named is None:
        return STRICT
    try:
        return read(Path(named).expanduser())
    except (ValueError, OSError) as error:
        raise told(ValueError(f"node-config policy={named}: {error}"), "the node's policy cannot be read") from error
