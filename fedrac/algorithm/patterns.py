"""Whether the patterns of ``adapt`` mean something in a model."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fedrac.algorithm import peft_names
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.weights import Weight


def check(model: nn.Module, weights: Sequence[Weight], spec: AdaptSpec) -> None:
    """Every pattern must mean something; a misspelt one would silently leave a layer frozen.

    Raises:
        ValueError: one does not; it names others that are near.
    """
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
