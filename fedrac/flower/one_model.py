"""One model for a process: the server tests with the one that the hosts beside it train with.

Whoever computes with it gives it the weights first (`fedrac.models.weights.use`).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from fedrac import models
from fedrac.models.weights import of
from fedrac.protocol import state_digest


@dataclass(frozen=True, eq=False)
class BuiltModel:
    """A model as a workload describes it.

    Attributes:
        workload: names the model, its seed and the dtype of the computation.
        model: may have other weights, and another dtype, by now.
        weights: its state dict as it was built.
    """

    workload: Mapping[str, Any]
    model: nn.Module
    weights: Mapping[str, Tensor]

    @cached_property
    def digest(self) -> str:
        """Of the state that has the weights as they were built, and no factors."""
        return state_digest.of_weights(self.weights, self.workload["dtype"])

    def in_master_dtype(self) -> dict[str, Tensor]:
        """What a run without pre-training starts from."""
        return state_digest.in_master_dtype(self.weights, self.workload["dtype"])

    @property
    def is_offered(self) -> bool:
        """Whether a server in this process has it, and so the state that it begins with."""
        return self is _offered

    @property
    def asked(self) -> str:
        """What it was built from."""
        return json.dumps([self.workload[key] for key in ("model", "seed", "dtype")], sort_keys=True)


_offered: BuiltModel | None = None


@contextmanager
def offered(built: BuiltModel) -> Iterator[None]:
    """While this is open, `of_host` gives this model to whoever asks for the same one in this process."""
    global _offered
    _offered = built
    try:
        yield
    finally:
        _offered = None


def of_host(workload: Mapping[str, Any]) -> BuiltModel:
    """What a host computes with: the model that is offered, if it is the one, or a new one.

    Where hosts hold weights in few bits it is a new one: the server tests with whole weights.

    Raises:
        ValueError: as `fedrac.models.build`.
    """
    whole = not workload.get("base_bits")
    if whole and _offered is not None and _offered.asked == BuiltModel(workload, _offered.model, {}).asked:
        return _offered
    return build(workload)


def build(workload: Mapping[str, Any]) -> BuiltModel:
    """A new one; raises ValueError as `fedrac.models.build`."""
    model = models.build(workload["model"], int(workload["seed"]))
    return BuiltModel(workload, model, of(model))
