"""Which parameters of a model are trained, and how: the blocks.

A block is one parameter with its update: ``s B A`` of rank r for a weight that is adapted, or a matrix of its own
shape (``D``) for a parameter that is trained in full (the identity sketch, ``H = I``). Section 7 of the notes to
arXiv 2410.08305: every block has a sketch of its own; blocks never share one.
"""

import difflib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from fedrac.algorithm import peft_names
from fedrac.algorithm.adapt import AdaptSpec, Rank
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.weights import Weight, adaptable, stack

log = logging.getLogger(__name__)


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
        stack: how many matrices the parameter holds, one after another (the experts of a mixture); None: it is one.
            Each has a sketch and factors of its own: ``A`` (stack, r, n), ``B`` (stack, m, r), ``shape`` (stack, m, n).
    """

    name: str
    shape: tuple[int, ...]
    rank: int | None
    scale: float
    owners: tuple[tuple[str, str], ...]
    padding: int | None = None
    stack: int | None = None

    @property
    def m(self) -> int:
        """Rows of the weight as a matrix: outputs."""
        return self.shape[0 if self.stack is None else 1]

    @property
    def n(self) -> int:
        """Columns of the weight as a matrix: inputs."""
        return math.prod(self.shape[1 if self.stack is None else 2 :])

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
        """Shape of ``A`` (r, n), ``B`` (m, r) or ``D`` (the parameter's own)."""
        if self.rank is None or letter == "D":
            return self.shape
        return (*self.stacked, *((self.rank, self.n) if letter == "A" else (self.m, self.rank)))

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
            whole = _block(model, name, None, 1.0, owners[name])
            admitted = _admitted(whole, rank, method)
            blocks.append(whole if admitted is None else replace(whole, rank=admitted, scale=spec.alpha / admitted))
    _check_patterns(model, weights, spec)
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
    return tuple(_block(model, d["name"], d["rank"], d["scale"], owners[d["name"]]) for d in descriptions)


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


def _check_patterns(model: nn.Module, weights: Sequence[Weight], spec: AdaptSpec) -> None:
    """Every pattern must mean something; a misspelt one would silently leave a layer frozen."""
    free = {place for place, p in _by_place(model).items() if p.requires_grad}
    layers = {w.layer: any(place in free for place in w.places) for w in weights}
    parameters = {name: p.requires_grad for name, p in model.named_parameters()}
    if not layers and not spec.full:
        kinds = ", ".join(sorted({type(m).__name__ for m in model.modules()}))
        raise ValueError(f"the model has no layer with a weight to adapt; its modules are: {kinds}")
    for option, patterns, names in (("layers", spec.layers, layers), ("full", spec.full, parameters)):
        for pattern in patterns:
            found = [name for name in names if fnmatchcase(name, pattern)]
            wanted = option == "full" or spec.layers[pattern] != "frozen"
            if found and wanted and not any(names[name] for name in found):
                raise ValueError(
                    f"adapt.{option}: {pattern!r} names nothing but parameters that the model keeps from training "
                    f"(requires_grad=False), e.g. {found[0]!r}: set requires_grad there, or leave it out"
                )
            if not found and not (option == "layers" and not layers):
                _refuse(model, option, pattern, list(names))


def _refuse(model: nn.Module, option: str, pattern: str, names: list[str]) -> None:
    others = [(path, m) for path, m in model.named_modules() if fnmatchcase(path, pattern)]
    others = [(path, m) for path, m in others if any(True for _ in m.parameters())]
    if option == "layers" and others:
        path, module = others[0]
        raise ValueError(
            f"adapt.layers: {pattern!r} names {path!r}, a {type(module).__name__}, which has no weight of its own that "
            f"has a low rank: name the layers in it, or train it in full with 'adapt.full=[{path}.*]'"
        )
    key, word, known = peft_names.spoken(model, option, pattern, names)
    near = difflib.get_close_matches(word, known, 3, 0.3) or known[:5]
    raise ValueError(f"adapt.{key}: {word!r} matches nothing in the model; near: {', '.join(near)}")


def _by_place(model: nn.Module) -> dict[tuple[str, str], nn.Parameter]:
    modules = model.named_modules(remove_duplicate=False)
    return {(path, name): p for path, m in modules for name, p in m.named_parameters(recurse=False)}
