"""Which modules of a model are called with each client's own weights, and which layers just get an update added."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from fedrac.algorithm.blocks import Block
from fedrac.training.watch import Seen
from fedrac.training.way import FIXED, ONE, Unit, Way, within

PLAIN = (nn.Linear, nn.Conv2d, nn.Embedding)


def plan(model: nn.Module, blocks: Sequence[Block], seen: Seen) -> Way:
    """Every module that reads a trained parameter: as a layer where it is exactly that, else as a unit.

    A unit takes and gives tensors of which it is known where the batch lies; where it is not known of a module that
    reads a parameter, the module around it is the unit, and for the whole model clients are trained one at a time.
    """
    layers, way = set(), Way()
    for block in blocks:
        for reader in sorted(seen.readers[block.name]):
            if _is_layer(model, block, reader, seen):
                layers.add(reader)
            else:
                way = add(model, way, seen, _holding(block, reader))
    return way if way.alone is not None else _cleaned(replace(way, layers=frozenset(layers)))


def widen(model: nn.Module, way: Way, blocks: Sequence[Block], seen: Seen, path: str, why: str) -> Way:
    """After something failed in the module ``path``: it becomes a unit, or what is around it if it is one.

    So do all modules of the same class: they fail in the same way.
    """
    if path in way.units:
        path = _outside(path)
    while path and not _can_be_unit(path, seen):
        path = _outside(path)
    kind = type(model.get_submodule(path))
    for each in [p for p, m in model.named_modules() if type(m) is kind]:
        way = add(model, way, seen, each)
    return replace(way, alone=why) if way.alone is not None else _cleaned(way)


def enclose_shared(model: nn.Module, way: Way, seen: Seen) -> Way:
    """With the modules around all that computes from what every row shares: its update gives each row its own, and what
    follows may take that for something else."""
    for path in sorted({*way.layers, *way.units}):
        if path and any(ONE in call.inputs for calls in seen.calls[path].values() for call in calls):
            way = add(model, way, seen, _outside(path))
    return _cleaned(way) if way.alone is None else way


def add(model: nn.Module, way: Way, seen: Seen, path: str) -> Way:
    """With the module ``path`` as a unit, or the nearest one around it that can be one."""
    start = path
    while path and not _can_be_unit(path, seen):
        path = _outside(path)
    if not path:
        kind = type(model.get_submodule(start)).__name__
        why = (
            f"{start or 'the model'!r} ({kind}) reads trained weights, and neither it nor what is around it can be "
            "called with the rows of each client apart"
        )
        return way.one_at_a_time(why)
    return replace(way, units={**way.units, path: Unit({key: each[0] for key, each in seen.calls[path].items()})})


def _cleaned(way: Way) -> Way:
    """Without what lies in a unit."""
    units = {p: u for p, u in way.units.items() if not any(o != p and within(p, o) for o in way.units)}
    return replace(way, units=units, layers=frozenset(p for p in way.layers if not any(within(p, o) for o in units)))


def _outside(path: str) -> str:
    return path.rpartition(".")[0]


def _holds(path: str, block: Block) -> bool:
    return any(within(owner, path) for owner, _ in block.owners)


def _holding(block: Block, reader: str) -> str:
    """The reader, or the module around it that has the parameter and takes rows: a parametrization takes weights."""
    path = reader.partition(".parametrizations")[0] if ".parametrizations" in f".{reader}" else reader
    while path and not _holds(path, block):
        path = _outside(path)
    return path


def _can_be_unit(path: str, seen: Seen) -> bool:
    """Not if it is called in one way with other meanings, or if an output would have to differ by client and cannot."""
    calls = seen.calls.get(path, {})
    alike = all(call == each[0] for each in calls.values() for call in each)
    return bool(calls) and alike and all(FIXED not in call.outputs for (call, *_) in calls.values())


def _is_layer(model: nn.Module, block: Block, reader: str, seen: Seen) -> bool:
    if all(path != reader for path, _ in block.owners) or not is_plain(model.get_submodule(reader)):
        return False
    calls = seen.calls.get(reader, {})
    return bool(calls) and all(call.inputs in ((0,), (ONE,)) for each in calls.values() for call in each)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes what its class in torch computes, and nothing around it changes that."""
    kind = next((kind for kind in PLAIN if isinstance(layer, kind)), None)
    if kind is None or type(layer).forward is not kind.forward or type(layer).__call__ is not nn.Module.__call__:
        return False
    return not {"forward", "_conv_forward"} & set(vars(layer)) and not any(_around(layer)) and not _special(layer)


def _around(layer: nn.Module) -> Iterator[bool]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    yield from (bool(getattr(layer, name)) for name in hooks)
    yield hasattr(layer, "parametrizations")
    yield not all(isinstance(value, Tensor | None) for value in layer._parameters.values())


def _special(layer: nn.Module) -> bool:
    embedding = isinstance(layer, nn.Embedding)
    return embedding and (layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse)
