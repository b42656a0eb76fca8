"""How the clients of a cohort can share the passes through a model: what `fedrac.training.probe` finds out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Signature = tuple[object, tuple[int | None, ...]]


FIXED = -2  # a tensor that all rows share
ONE = -1  # a tensor that all rows share, with a first dimension of 1: an update of it gives every row its own


class NotTogether(ValueError):
    """The clients of a cohort cannot share this model's passes; one at a time they can still be trained."""


class Refused(ValueError):
    """The model cannot be trained at all as it is."""


@dataclass(frozen=True)
class Call:
    """Where the rows of the batch lie in what a module takes and gives: a dimension of every leaf of the arguments and
    of the outputs, in the order of ``torch.utils._pytree``; `ONE` and `FIXED`: all rows share it;
    None: it is no tensor."""

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]


@dataclass(frozen=True)
class Unit:
    """A module that is called with each client's own weights.

    Attributes:
        calls: by signature of the arguments: their structure, and the number of dimensions of every tensor.
        loop: one client after another; else all at once by ``torch.vmap``.
    """

    calls: Mapping[Signature, Call]
    loop: bool = False


@dataclass(frozen=True)
class Layer:
    """One of the layers of a network in which each takes what the one before it gives.

    Attributes:
        kind: ``linear``, ``norm`` (of a layer's numbers), or the name of an activation (`fedrac.training.plain`).
        weight, bias: names of the parameters; empty or None: it has none.
        eps: of a norm.
    """

    kind: str
    weight: str = ""
    bias: str | None = None
    eps: float = 0.0


@dataclass(frozen=True)
class Way:
    """What is done where.

    Attributes:
        layers: paths of the layers whose outputs get the clients' updates added.
        units: by path, the modules that are called with each client's own weights, and all that lies in them.
        alone: why the clients are trained one at a time; None: they are trained together.
        drops: whether the model drops anything in training.
        kept: bytes that a pass keeps for its way back, for each token (each row, of what has no length).
        padded: texts of a step go through the model together, padded to the longest one, and not in passes of about the
            same length: the model drops of what all rows share, which every pass would draw anew.
        plain: the network's layers, where their gradients are written out; empty: the model itself is called.
    """

    layers: frozenset[str] = frozenset()
    units: Mapping[str, Unit] = field(default_factory=dict)
    alone: str | None = None
    drops: bool = False
    kept: float = 0.0
    padded: bool = False
    plain: tuple[Layer, ...] = ()

    def one_at_a_time(self, why: str) -> "Way":
        """Training one client after another, for this reason or the one that it has already."""
        return Way(alone=self.alone or why, drops=self.drops)

    def looping(self, paths: frozenset[str]) -> "Way":
        """The same with a loop for the clients in these units."""
        return replace(self, units={p: replace(u, loop=u.loop or p in paths) for p, u in self.units.items()})


def within(path: str, outer: str) -> bool:
    """Whether a module's path is ``outer`` or lies in it."""
    return path == outer or not outer or path.startswith(f"{outer}.")
