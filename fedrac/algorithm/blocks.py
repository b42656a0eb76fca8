"""Which parameters of a model are trained, and how: the blocks.

A block is one parameter with its update: ``s B A`` of rank r for a weight that is adapted, or a matrix of its own
shape (``D``) for a parameter that is trained in full (the identity sketch, ``H = I``). Section 7 of the notes to
arXiv 2410.08305: every block has a sketch of its own; blocks never share one.
"""

import difflib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from fedrac.algorithm import peft_names
from fedrac.algorithm.adapt import AdaptSpec, Rank
from fedrac.algorithm.method import Method, RoundMethod

log = logging.getLogger(__name__)

ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Embedding)


@dataclass(frozen=True)
class Block:
    """One trained parameter.

    Attributes:
        name: the parameter's first name in ``model.named_parameters()``.
        shape: its shape. As a matrix it has ``m = shape[0]`` rows and ``n`` columns, the rest flattened.
        rank: rank of the update; None for a parameter trained in full.
        scale: ``s = alpha / rank``; 1 for a parameter trained in full.
        owners: (module, attribute) of every place that uses it; more than one where weights are tied.
        padding: the row of an embedding that never moves, its ``padding_idx``; None if there is none, or if the
            weight is tied to a layer that does use the row.
    """

    name: str
    shape: tuple[int, ...]
    rank: int | None
    scale: float
    owners: tuple[tuple[str, str], ...]
    padding: int | None = None

    @property
    def m(self) -> int:
        """Rows of the weight as a matrix: outputs."""
        return self.shape[0]

    @property
    def n(self) -> int:
        """Columns of the weight as a matrix: inputs."""
        return math.prod(self.shape[1:])

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the parameter in the model's state dict."""
        return tuple(".".join(filter(None, owner)) for owner in self.owners)

    def factor_shape(self, letter: str) -> tuple[int, ...]:
        """Shape of ``A`` (r, n), ``B`` (m, r) or ``D`` (the parameter's own)."""
        if self.rank is None or letter == "D":
            return self.shape
        return (self.rank, self.n) if letter == "A" else (self.m, self.rank)

    def key(self, letter: str) -> str:
        """Name of a factor in messages and checkpoints, e.g. ``layers.0.weight:A``."""
        return f"{self.name}:{letter}"

    def description(self) -> dict[str, Any]:
        """What a client needs to find the same block in its copy of the model."""
        return {"name": self.name, "rank": self.rank, "scale": self.scale}


def trained_shapes(blocks: Iterable[Block], method: RoundMethod) -> dict[str, tuple[int, ...]]:
    """Key and shape of every factor that is trained in a round: what a client uploads."""
    return {b.key(x): b.factor_shape(x) for b in blocks for x in method.trained_letters(b.rank is None)}


def plan_blocks(model: nn.Module, spec: AdaptSpec, method: Method) -> tuple[Block, ...]:
    """The blocks of ``model`` in order of ``named_parameters()``.

    Raises:
        ValueError: nothing matches, a pattern matches nothing, or a layer cannot be adapted.
    """
    owners, spec = _owners(model), peft_names.resolve(model, spec)
    ranks = _layer_ranks(model, spec)
    blocks = []
    for name, parameter in model.named_parameters():
        rank = next((ranks[m] for m, attribute in owners[name] if attribute == "weight" and m in ranks), "frozen")
        if any(fnmatchcase(name, pattern) for pattern in spec.full):
            rank = "full"
        if rank != "frozen":
            admitted = _admitted(name, tuple(parameter.shape), rank, method)
            scale = 1.0 if admitted is None else spec.alpha / admitted
            blocks.append(_block(model, name, admitted, scale, owners[name]))
    _check_patterns(model, spec)
    if not blocks:
        raise ValueError(f"nothing to train: adapt.layers={dict(spec.layers)} leaves every parameter frozen")
    return tuple(blocks)


def find_blocks(model: nn.Module, descriptions: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    """The blocks that the server described, in this copy of the model.

    Raises:
        ValueError: the model has no parameter of that name.
    """
    owners = _owners(model)
    missing = [d["name"] for d in descriptions if d["name"] not in owners]
    if missing:
        raise ValueError(f"the model here has no parameter {missing[0]!r}; the server's model differs from it")
    return tuple(_block(model, d["name"], d["rank"], d["scale"], owners[d["name"]]) for d in descriptions)


def matrix(weight: Tensor) -> Tensor:
    """A weight (m, ...) as a matrix (m, n); a view where torch allows it."""
    return weight.reshape(weight.shape[0], -1)


def _block(model: nn.Module, name: str, rank: int | None, scale: float, owners: tuple[tuple[str, str], ...]) -> Block:
    padding = {getattr(model.get_submodule(path), "padding_idx", None) for path, _ in owners}
    shape = tuple(model.get_parameter(name).shape)
    return Block(name, shape, rank, scale, owners, padding.pop() if len(padding) == 1 else None)


def _owners(model: nn.Module) -> dict[str, tuple[tuple[str, str], ...]]:
    places: dict[int, list[tuple[str, str]]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((path, attribute))
    return {name: tuple(places[id(parameter)]) for name, parameter in model.named_parameters()}


def _adaptable(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, ADAPTABLE)]


def _layer_ranks(model: nn.Module, spec: AdaptSpec) -> dict[str, Rank]:
    """Rank of every adapted layer: the last pattern that matches it."""
    ranks: dict[str, Rank] = {}
    for path in _adaptable(model):
        for pattern, rank in spec.layers.items():
            if fnmatchcase(path, pattern):
                ranks[path] = rank
    for path, rank in ranks.items():
        layer = model.get_submodule(path)
        if rank != "frozen" and isinstance(layer, nn.Embedding) and layer.max_norm is not None:
            raise ValueError(f"layer {path!r}: an embedding with max_norm is not linear in its weight; freeze it")
    return ranks


def _admitted(name: str, shape: tuple[int, ...], rank: Rank, method: Method) -> int | None:
    """The rank a block really gets; None: trained in full."""
    if rank == "full" or method.train == "full":
        return None
    m, n = shape[0], math.prod(shape[1:])
    most = min(m, n) if method.train == "both" else min(m if side == "left" else n for side in method.sides)
    assert isinstance(rank, int)
    if rank < most or (rank == most and method.train == "both"):
        return rank
    if method.train == "both":
        log.info("%s (%d x %d): rank %d lowered to %d", name, m, n, rank, most)
        return most
    log.info("%s (%d x %d): rank %d is its full rank (%s), trained in full", name, m, n, rank, method.side)
    return None


def _check_patterns(model: nn.Module, spec: AdaptSpec) -> None:
    """Every pattern must mean something; a misspelt one would silently leave a layer frozen."""
    layers, parameters = _adaptable(model), [name for name, _ in model.named_parameters()]
    if not layers and not spec.full:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(f"the model has no Linear, Conv2d or Embedding layer to adapt; its modules are: {kinds}")
    for option, patterns, names in (("layers", spec.layers, layers), ("full", spec.full, parameters)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names) and not (option == "layers" and not layers):
                key, word, known = peft_names.spoken(model, option, pattern, names)
                near = difflib.get_close_matches(word, known, 3, 0.3) or known[:5]
                raise ValueError(f"adapt.{key}: {word!r} matches nothing in the model; near: {', '.join(near)}")
