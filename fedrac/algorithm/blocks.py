"""Which parameters of a model are trained, and how: the blocks.

A block is one parameter with its update: ``s B A`` of rank r for a weight that is adapted; ``s B Z A``, a core Z
between two sketches, L = B and R = A of a two-sided method; or a matrix of its own shape (``D``) for a parameter that
is trained in full (the identity sketch, ``H = I``). Every block has sketches of its own; blocks never share one.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from fedrac.algorithm import patterns, peft_names
from fedrac.algorithm.adapt import AdaptSpec, Rank
from fedrac.algorithm.method import Method, RoundMethod, RoundSide
from fedrac.algorithm.sketch import Side
from fedrac.algorithm.weights import Weight, adaptable, stack

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """One trained parameter.

    Attributes:
        name: the parameter's first name in ``model.named_parameters()``.
        shape: its shape. As a matrix it has ``m = shape[0]`` rows and ``n`` columns, the rest flattened.
        rank: rank of the update, or columns p of L where it is two-sided; None for a parameter trained in full.
        scale: ``s = alpha / rank``; 1 for a parameter trained in full.
        owners: (module, attribute) of every place that uses it; more than one where weights are tied.
        padding: the row of an embedding that never moves, its ``padding_idx``; None if there is none, or if the
            weight is tied to a layer that does use the row.
        stack: how many matrices the parameter holds, one after another (the experts of a mixture); None: it is one.
            Each has a sketch and factors of its own: ``A`` (stack, r, n), ``B`` (stack, m, r), ``shape`` (stack, m, n).
        columns: k, rows of R = A (k, n), where the block is two-sided; the core is ``Z`` (p, k). None: it is not.
        fixed: k0, how many rows of A are fixed for the run; the others are drawn in their complement. 0: all are drawn.
        only: in a two-sided method, the side of a block whose other side is the identity; None elsewhere.
    """

    name: str
    shape: tuple[int, ...]
    rank: int | None
    scale: float
    owners: tuple[tuple[str, str], ...]
    padding: int | None = None
    stack: int | None = None
    columns: int | None = None
    fixed: int = 0
    only: Side | None = None

    @property
    def m(self) -> int:
        """Rows of the weight as a matrix: outputs."""
        return self.shape[0 if self.stack is None else 1]

    @property
    def n(self) -> int:
        """Columns of the weight as a matrix: inputs."""
        return math.prod(self.shape[1 if self.stack is None else 2 :])

    @property
    def update_rank(self) -> int:
        """The largest rank that an update of low rank can have."""
        assert self.rank is not None
        return self.rank if self.columns is None else min(self.rank, self.columns)

    @property
    def stacked(self) -> tuple[int, ...]:
        """The axes before those of a matrix: (stack,), or none."""
        return () if self.stack is None else (self.stack,)

    @property
    def parts(self) -> tuple[str, ...]:
        """The name of every matrix, for its sketch."""
        return (self.name,) if self.stack is None else tuple(f"{self.name}[{i}]" for i in range(self.stack))

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as a matrix (m, n), or as a stack of them; a view where torch allows it."""
        return weight.reshape(*self.stacked, self.m, self.n)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the parameter in the model's state dict."""
        return tuple(".".join(filter(None, owner)) for owner in self.owners)

    def factor_shape(self, letter: str) -> tuple[int, ...]:
        """Shape of ``A`` (r, n), ``B`` (m, r), ``Z`` (p, k) with ``A`` (k, n), or ``D`` (the parameter's own).

        A control (``Ac``) is as large as what it is of.
        """
        letter = letter.removesuffix("c")
        if self.rank is None or letter == "D":
            return self.shape
        rows = self.rank if self.columns is None else self.columns
        shapes = {"A": (rows, self.n), "B": (self.m, self.rank), "Z": (self.rank, rows)}
        return (*self.stacked, *shapes[letter])

    def side(self, method: RoundMethod) -> RoundSide:
        """Which of its factors is a sketch in a round: B (left), A (right) or both."""
        return self.only or method.side

    def trained_letters(self, method: RoundMethod) -> tuple[str, ...]:
        """Which matrices are trained: ``D`` (the whole update), ``A`` or ``B``, ``A`` and ``B``, or ``Z``."""
        if self.rank is None or method.train == "full":
            return ("D",)
        if method.train == "both":
            return ("A", "B")
        return {"left": ("A",), "right": ("B",), "both": ("Z",)}[self.side(method)]

    def sent_letters(self, method: RoundMethod) -> tuple[str, ...]:
        """Those of them that do not stay with the client (`Method.personal`); ``Ac``: the change of A's control."""
        found = tuple(x for x in self.trained_letters(method) if not method.method.is_personal(self.key(x)))
        return (*found, *(f"{x}c" for x in found)) if method.method.sends_controls else found

    def drawn_letters(self, method: RoundMethod) -> tuple[str, ...]:
        """Which are sketches: ``B`` left, ``A`` right, both of them around a core, none of a block trained in full."""
        if self.rank is None:
            return ()
        return {"left": ("B",), "right": ("A",), "both": ("A", "B")}[self.side(method)]

    def sketch_key(self, letter: str) -> str:
        """Name of a sketch: the parameter's where it has one, as `key` where it has two."""
        return self.name if self.columns is None else self.key(letter)

    def key(self, letter: str) -> str:
        """Name of a factor in messages and checkpoints, e.g. ``layers.0.weight:A``."""
        return f"{self.name}:{letter}"

    def description(self) -> dict[str, Any]:
        """What a client needs to find the same block in its copy of the model."""
        two_sided = {"columns": self.columns, "fixed": self.fixed, "only": self.only}
        told = {name: value for name, value in two_sided.items() if value}
        return {"name": self.name, "rank": self.rank, "scale": self.scale, **told}


def trained_shapes(blocks: Iterable[Block], method: RoundMethod) -> dict[str, tuple[int, ...]]:
    """Key and shape of every factor that is trained in a round."""
    return {b.key(x): b.factor_shape(x) for b in blocks for x in b.trained_letters(method)}


def sent_shapes(blocks: Iterable[Block], method: RoundMethod) -> dict[str, tuple[int, ...]]:
    """Key and shape of every factor that a client uploads in a round."""
    return {b.key(x): b.factor_shape(x) for b in blocks for x in b.sent_letters(method)}


def own_shapes(blocks: Sequence[Block], method: RoundMethod) -> dict[str, tuple[int, ...]]:
    """Key and shape of all that stays with a client: personal factors, and controls under ``KEY/control``."""
    trained = trained_shapes(blocks, method)
    if method.method.keeps_controls:
        return {f"{key}/control": shape for key, shape in trained.items()}
    return {key: shape for key, shape in trained.items() if method.method.is_personal(key)}


def check_personal(blocks: Sequence[Block], method: Method) -> None:
    """Raises ValueError where what is to stay with clients cannot."""
    if not method.personal:
        return
    named = f"method.personal={list(method.personal)}"
    trained, sent = trained_shapes(blocks, method.at(1)), sent_shapes(blocks, method.at(1))
    for pattern in method.personal:
        if not any(fnmatchcase(key, pattern) for key in trained):
            raise ValueError(f"{named}: {pattern} matches none of what is trained: {', '.join(trained)}")
    if not sent:
        raise ValueError(f"{named} leaves nothing that clients send")
    factors = [key for key in trained if key not in sent and not key.endswith(":D")]
    if factors and (method.merge or method.fresh or len(method.sides) > 1 or method.average == "products"):
        raise ValueError(
            f"{named}: the factor {factors[0]} belongs to one sketch: set method.fresh=false method.merge=false "
            "method.average=factors, and one side"
        )


def plan_blocks(model: nn.Module, spec: AdaptSpec, method: Method) -> tuple[Block, ...]:
    """The blocks of ``model`` in order of ``named_parameters()``.

    A parameter that the model keeps from training (``requires_grad=False``) has none.

    Raises:
        ValueError: nothing matches, a pattern matches nothing, or a layer cannot be adapted.
    """
    owners, spec = _owners(model), peft_names.resolve(model, spec)
    weights = adaptable(model)
    ranks = _ranks(model, weights, spec, method)
    blocks = []
    for name, parameter in model.named_parameters():
        rank = next((ranks[place] for place in owners[name] if place in ranks), "frozen")
        if any(fnmatchcase(name, pattern) for pattern in spec.full):
            rank = "full"
        if rank != "frozen" and parameter.requires_grad:
            blocks.append(_sized(_block(model, name, None, 1.0, owners[name]), rank, spec, method))
    patterns.check(model, weights, spec)
    if not blocks:
        raise ValueError(f"nothing to train: adapt.layers={dict(spec.layers)} leaves every parameter frozen")
    return tuple(blocks)


def described(model: nn.Module, spec: AdaptSpec, blocks: Sequence[Block]) -> str:
    """How much of a model is trained, in one line: parameters by their numbers."""
    names, spec = {b.name for b in blocks}, peft_names.resolve(model, spec)
    total = trained = cannot = 0
    for name, parameter in model.named_parameters():
        matching = [rank for pattern, rank in spec.layers.items() if fnmatchcase(name.rpartition(".")[0], pattern)]
        reached = bool(matching) and matching[-1] != "frozen" and parameter.requires_grad
        total += parameter.numel()
        trained += parameter.numel() if name in names else 0
        cannot += parameter.numel() if reached and name not in names else 0
    return (
        f"{trained} of {total} parameters are trained; {total - trained - cannot} are frozen as adapt or the model "
        f"says, {cannot} because they have no low rank (adapt.full trains them)"
    )


def find_blocks(model: nn.Module, descriptions: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    """The blocks that the server described, in this copy of the model.

    Raises:
        ValueError: the model has no parameter of that name.
    """
    owners = _owners(model)
    missing = [d["name"] for d in descriptions if d["name"] not in owners]
    if missing:
        raise ValueError(f"the model here has no parameter {missing[0]!r}; the server's model differs from it")
    found = []
    for described in descriptions:
        own = dict(described)
        name, rank, scale = (own.pop(key) for key in ("name", "rank", "scale"))
        found.append(replace(_block(model, name, rank, scale, owners[name]), **own))
    return tuple(found)


def _block(model: nn.Module, name: str, rank: int | None, scale: float, owners: tuple[tuple[str, str], ...]) -> Block:
    layers = [model.get_submodule(path) for path, _ in owners]
    padding = {getattr(layer, "padding_idx", None) for layer in layers}
    shape = tuple(model.get_parameter(name).shape)
    own = padding.pop() if len(padding) == 1 else None
    return Block(name, shape, rank, scale, owners, own, stack(layers[0], owners[0][1]))


def _owners(model: nn.Module) -> dict[str, tuple[tuple[str, str], ...]]:
    places: dict[int, list[tuple[str, str]]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((path, attribute))
    return {name: tuple(places[id(parameter)]) for name, parameter in model.named_parameters()}


def _ranks(model: nn.Module, weights: Sequence[Weight], spec: AdaptSpec, method: Method) -> dict[tuple[str, str], Rank]:
    """Rank by (module, attribute) of every weight that a pattern matches: that of the last one."""
    ranks: dict[tuple[str, str], Rank] = {}
    for weight in weights:
        matching = [rank for pattern, rank in spec.layers.items() if fnmatchcase(weight.layer, pattern)]
        if not matching or matching[-1] == "frozen":
            continue
        rank = "full" if method.train == "full" else matching[-1]
        if rank != "full":
            _check_product(model, weight)
        ranks |= dict.fromkeys(weight.places, rank)
    return ranks


def _check_product(model: nn.Module, weight: Weight) -> None:
    """A weight of low rank must be a parameter, and what its layer computes a function of it."""
    rest = f"or leave it out: 'adapt.layers={{..., {weight.layer}: frozen}}'"
    if weight.originals:
        raise ValueError(
            f"layer {weight.layer!r}: its {weight.attribute} is computed from other parameters (a parametrization), so "
            f"it has no update of low rank. Remove the parametrization, train the layer in full "
            f"('adapt.layers={{..., {weight.layer}: full}}'), {rest}"
        )
    if getattr(model.get_submodule(weight.layer), "max_norm", None) is not None:
        raise ValueError(f"layer {weight.layer!r}: an embedding with max_norm is not linear in its weight; freeze it")


def _sized(whole: Block, rank: Rank, spec: AdaptSpec, method: Method) -> Block:
    """The block with its rank, and whatever else it gets of a method."""
    if method.side == "both" and method.train == "factor" and rank != "full":
        return _two_sided(whole, *_pair(rank, spec), spec)
    if isinstance(rank, tuple):
        raise ValueError(f"rank {list(rank)} of {whole.name} is of a two-sided update, and method.side={method.side}")
    admitted = _admitted(whole, rank, method)
    return whole if admitted is None else replace(whole, rank=admitted, scale=spec.scale(admitted))


def _pair(rank: Rank, spec: AdaptSpec) -> tuple[int, int | None]:
    """p and k of a two-sided update; k is None where R is the identity."""
    assert not isinstance(rank, str)
    return rank if isinstance(rank, tuple) else (rank, spec.columns)


def _two_sided(whole: Block, rank: int, columns: int | None, spec: AdaptSpec) -> Block:
    """With L of ``rank`` columns and R of ``columns`` rows; a side that would be the whole space is the identity.

    A basis is orthonormal: where L is the identity, too, there is no rank to scale by, and ``s = alpha``.
    """
    left = rank if rank < whole.m else None
    right = columns if columns is not None and columns < whole.n else None
    fixed = 0 if right is None or spec.basis is None else right - spec.fresh_columns
    if left is None:
        scale = spec.alpha if fixed or right is None else spec.scale(right)
        return whole if right is None else replace(whole, rank=right, scale=scale, fixed=fixed, only="right")
    if right is None:
        return replace(whole, rank=left, scale=spec.scale(left), only="left")
    return replace(whole, rank=left, scale=spec.scale(left), columns=right, fixed=fixed)


def _admitted(block: Block, rank: Rank, method: Method) -> int | None:
    """The rank a block really gets; None: trained in full."""
    if rank == "full" or method.train == "full":
        return None
    m, n = block.m, block.n
    most = min(m, n) if method.train == "both" else min(m if side == "left" else n for side in method.sides)
    assert isinstance(rank, int)
    if rank < most or (rank == most and method.train == "both"):
        return rank
    if method.train == "both":
        log.info("%s (%d x %d): rank %d lowered to %d", block.name, m, n, rank, most)
        return most
    log.info("%s (%d x %d): rank %d is its full rank (%s), trained in full", block.name, m, n, rank, method.side)
    return None
