"""The sections of the configuration that belong to no other package, each with its types and ranges."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedrac.algorithm.selection import Rule
from fedrac.algorithm.sketch import Law
from fedrac.flower.round_settings import Send, TestClients
from fedrac.training import low_bits

Log = Literal["text", "json"]


@dataclass(frozen=True)
class PretrainSpec:
    """Pre-training in one place, of all parameters.

    Attributes:
        enabled: otherwise the run starts from the model's random initialisation.
        data: entries of the data's configuration that differ.
        seed: of initialisation and mini-batches; where it is not the run's, all seeds start from the same model. None:
            the run's.
        epochs: passes over all training examples of ``data``.
        batch_size: rows of a mini-batch.
        lr: learning rate of AdamW.

    Raises:
        ValueError: a number is not positive.
    """

    enabled: bool = False
    data: Mapping[str, Any] | None = None
    seed: int | None = 0
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size), ("lr", self.lr)):
            if not 0 < value < math.inf:
                raise ValueError(f"pretrain.{name}={value} must be positive and finite")


@dataclass(frozen=True)
class Bits:
    """``upload`` and ``download`` of the configuration.

    Attributes:
        bits: of a number that is sent: 8, 4, 2 or 1; None: numbers are sent whole.
    """

    bits: int | None = None


@dataclass(frozen=True)
class BasisSpec:
    """``basis`` of the configuration: what ``adapt.basis=inputs`` looks at.

    Attributes:
        data: entries of the data's configuration that differ: data that no client has. None: those of pre-training.
        examples: so many of their training examples, evenly spread.

    Raises:
        ValueError: there are none.
    """

    data: Mapping[str, Any] | None = None
    examples: int = 2000

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"basis.examples={self.examples} must be at least 1")


@dataclass(frozen=True)
class CohortSpec:
    """``cohort`` of the configuration; see `ServerSpec`.

    Attributes:
        size: clients a round, C.
        min_fraction: the least share of them that must answer well, in (0, 1].
        timeout: seconds to wait for their answers.
        selection, available: see `SelectionSpec`.

    Raises:
        ValueError: ``timeout`` is not positive.
    """

    size: int
    min_fraction: float
    timeout: float
    selection: Rule = "uniform"
    available: float | str | None = None

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ValueError(f"cohort.timeout={self.timeout} must be positive")


@dataclass(frozen=True)
class SketchConfig:
    """``sketch`` of the configuration.

    Attributes:
        law: distribution of the random factor.
        send: ``seed``, from which hosts rebuild it, or ``matrix``, if it is sent.
    """

    law: Law
    send: Send


@dataclass(frozen=True)
class EvaluateSpec:
    """``evaluate`` of the configuration.

    Attributes:
        every: rounds between tests.
        on_clients: whether clients test, too: those of the round (True), so many, or ``all``.
        batch_size: rows that are tested at a time.
        validation: the fraction of the training examples that is tested on instead of the test part; None: none.
        objective: the training objective is recorded, too, as ``train/objective``.
        metrics: of the server's whole test part, besides those of the data; see `fedrac.data.metrics`.
    """

    every: int
    on_clients: TestClients
    validation: float | None
    objective: bool
    batch_size: int
    metrics: Sequence[str] = ()


@dataclass(frozen=True)
class RuntimeSpec:
    """``runtime`` of the configuration.

    Attributes:
        hosts: nodes of the in-process run.
        dtype: of the computation: ``float32``, ``float64`` or ``bfloat16``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        threads: of PyTorch in this process; None: by the rule of `fedrac.training.threads`.
        log: what is printed: ``text``, or ``json`` for programs.
        base_bits: in which clients hold the weights of linear layers, 8 or 4 (`fedrac.training.low_bits`); None: whole.

    Raises:
        ValueError: a value is out of its range.
    """

    hosts: int
    dtype: str
    device: str
    threads: int | None
    log: Log = "text"
    base_bits: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64", "bfloat16"):
            raise ValueError(f"runtime.dtype={self.dtype!r} is unknown: choose float32, float64 or bfloat16")
        for name, value in (("hosts", self.hosts), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"runtime.{name}={value} must be at least 1")
        low_bits.check(self.base_bits, self.dtype)
