"""A model and data that are objects of this process, under the names by which a configuration speaks of them.

Everything below takes model and data by a ``_target_``. That of live ones is a function here, and its ``token`` says
which: it is new for every fit, so that nothing which was kept for another one is ever taken for it.
"""

import copy
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedrac.data import Data

TARGET = f"{__name__}.model"


@dataclass(frozen=True, eq=False)
class _Objects:
    model: nn.Module
    data: Data


_held: dict[str, _Objects] = {}


@contextmanager
def held(net: nn.Module, examples: Data) -> Iterator[str]:
    """Within the block, the two can be had by the token that it gets."""
    token = uuid.uuid4().hex
    _held[token] = _Objects(net, examples)
    try:
        yield token
    finally:
        del _held[token]


def sections(token: str) -> dict[str, dict[str, Any]]:
    """The sections ``model`` and ``data`` of the configuration."""
    return {"model": {"_target_": TARGET, "token": token}, "data": {"_target_": f"{__name__}.data", "token": token}}


def is_live(model: Mapping[str, Any]) -> bool:
    """Whether a run with this section ``model`` was given its model as an object."""
    return model.get("_target_") == TARGET


def model(token: str) -> nn.Module:
    """A copy of the model, on the CPU.

    Raises:
        ValueError: the fit is over, or took place in another process.
    """
    return copy.deepcopy(_objects(token).model).cpu()


def data(token: str) -> Data:
    """The data, not copied.

    Raises:
        ValueError: as for `model`.
    """
    return _objects(token).data


def _objects(token: str) -> _Objects:
    try:
        return _held[token]
    except KeyError:
        raise ValueError(
            "this run was given its model and data as objects (fedrac.fit), which are not here: fedrac.load(folder, "
            "model=net) takes the model once more, fedrac.fit(..., overrides=['resume=DIR']) goes on with the run"
        ) from None
