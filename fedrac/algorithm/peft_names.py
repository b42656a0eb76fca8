"""What to train in the words of PEFT, turned into the patterns of `fedrac.algorithm.adapt.AdaptSpec`.

``target_modules`` names layers by the end of their path (``query``), or all linear layers but those of the head
(``all-linear``). ``modules_to_save`` names modules that are trained in full, in the same way, or ``head``, which is
what a model of `fedrac.models.hf` has on top. Rank and ``lora_alpha`` mean what they mean there: the update is
``(lora_alpha / rank) B A``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.weights import adaptable, is_linear

ALL_LINEAR, HEAD = "all-linear", "head"


def patterns(adapt: Mapping[str, Any], rank: Any) -> dict[str, Any]:
    """The section ``adapt`` of a configuration without the words of PEFT.

    Raises:
        ValueError: ``target_modules`` or ``modules_to_save`` is no list of names.
    """
    adapt = dict(adapt)
    targets, saved = adapt.pop("target_modules", None), adapt.pop("modules_to_save", None)
    if targets is not None:
        adapt["layers"] = dict.fromkeys(map(_ending, _names(targets, "target_modules")), rank)
    if saved:
        ends = [name if name == HEAD else f"{_ending(name)}.*" for name in _names(saved, "modules_to_save")]
        adapt["full"] = [*adapt.get("full", []), *ends]
    if "lora_alpha" in adapt:
        adapt["alpha"] = adapt.pop("lora_alpha")
    return adapt


def _names(value: Any, key: str) -> Sequence[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"adapt.{key}={value!r}: give a list of names, e.g. [query, value]")
    return names


def _ending(name: str) -> str:
    return name if name == ALL_LINEAR else f"*.{name}"


def resolve(model: nn.Module, spec: AdaptSpec) -> AdaptSpec:
    """``all-linear`` and ``head`` replaced by what they are in ``model``."""
    heads: tuple[str, ...] = getattr(model, "heads", ())
    layers: dict[str, Any] = {}
    for pattern, rank in spec.layers.items():
        layers |= dict.fromkeys(_linear(model, heads), rank) if pattern == ALL_LINEAR else {pattern: rank}
    full: list[str] = []
    for name in spec.full:
        full += [f"{head}.*" for head in heads] if name == HEAD and heads else [name]
    return replace(spec, layers=layers, full=full)


def spoken(model: nn.Module, option: str, pattern: str, names: Sequence[str]) -> tuple[str, str, list[str]]:
    """A pattern that matches none of ``names`` as its user wrote it: the key, the word, and words that do match."""
    word = pattern.removeprefix("*.").removesuffix(".*")
    if not hasattr(model, "heads") or word == pattern or set(word) & set("*?["):
        return option, pattern, list(names)
    paths = names if option == "layers" else [name.rpartition(".")[0] for name in names]
    ends = dict.fromkeys(path.rpartition(".")[2] for path in paths)
    return "target_modules" if option == "layers" else "modules_to_save", word, list(ends)


def _linear(model: nn.Module, heads: Sequence[str]) -> list[str]:
    """Paths of the linear layers outside the heads: routers and fused experts of a mixture are such, too."""
    weights = adaptable(model)
    linear = dict.fromkeys(w.layer for w in weights if is_linear(model, w))
    found = [path for path in linear if not any(f"{path}.".startswith(f"{head}.") for head in heads)]
    if not found:
        kinds = sorted({type(model.get_submodule(w.layer)).__name__ for w in weights if w.layer not in linear})
        others = (
            f"; it has others ({', '.join(kinds)}), and 'adapt.layers={{*: RANK}}' adapts all of them" if kinds else ""
        )
        raise ValueError(f"{ALL_LINEAR} matches nothing: the model has no linear layer outside its head{others}")
    return found
