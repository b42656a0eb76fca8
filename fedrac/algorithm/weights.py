"""The weights of a model that can be adapted at low rank: matrices by which something is multiplied.

These are the weights of torch's own layers and their subclasses (linear, convolutions, embeddings, recurrent layers,
attention), any other parameter ``weight`` of two dimensions (a router, say), and the fused experts of a mixture: one
tensor of three dimensions that holds a matrix an expert.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_WEIGHT = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.modules.conv._ConvNd,
)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_NOT_LINEAR = (nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Weight:
    """One weight that can be adapted.

    Attributes:
        layer: path of the layer, which the patterns of ``adapt.layers`` name.
        attribute: the layer's name for it.
        originals: (module, attribute) of the parameters that the weight is computed from, where it has a
            parametrization (weight_norm, spectral_norm, ...); empty where it is a parameter itself.
    """

    layer: str
    attribute: str
    originals: tuple[tuple[str, str], ...] = ()

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """(module, attribute) of its parameters."""
        return self.originals or ((self.layer, self.attribute),)


def adaptable(model: nn.Module) -> list[Weight]:
    """All of them, in order of ``named_modules()``."""
    return [w for path, module in model.named_modules() if ".parametrizations" not in path for w in _of(path, module)]


def is_linear(model: nn.Module, weight: Weight) -> bool:
    """Whether ``all-linear`` means it: rows are multiplied by it, at every place by the whole of it."""
    return not isinstance(model.get_submodule(weight.layer), _NOT_LINEAR)


def stack(module: nn.Module, attribute: str) -> int | None:
    """How many matrices a parameter holds: the number of experts; None: it is one matrix."""
    return module.get_parameter(attribute).shape[0] if _is_fused(module, attribute) else None


def _of(path: str, module: nn.Module) -> Iterator[Weight]:
    for attribute in _attributes(module):
        if attribute in module._parameters:
            if module._parameters[attribute] is not None:
                yield Weight(path, attribute)
        elif originals := tuple(_originals(path, module, attribute)):
            yield Weight(path, attribute, originals)


def _attributes(module: nn.Module) -> list[str]:
    if isinstance(module, _WEIGHT):
        return ["weight"]
    if isinstance(module, nn.RNNBase):
        return [name for names in module._all_weights for name in names if name.startswith("weight")]
    if isinstance(module, nn.RNNCellBase):
        return ["weight_ih", "weight_hh"]
    if isinstance(module, nn.MultiheadAttention):
        return list(_ATTENTION)
    own = [name for name, p in module.named_parameters(recurse=False) if p.ndim == 2 and name == "weight"]
    return own or [name for name, _ in module.named_parameters(recurse=False) if _is_fused(module, name)]


def _is_fused(module: nn.Module, attribute: str) -> bool:
    """Three dimensions, in a module that calls itself experts: that is how mixtures keep all of them in one tensor."""
    value = module._parameters.get(attribute)
    return value is not None and value.ndim == 3 and "experts" in type(module).__name__.lower()


def _originals(path: str, module: nn.Module, attribute: str) -> Iterator[tuple[str, str]]:
    """Of ``torch.nn.utils.parametrizations``, and of the older ``torch.nn.utils.weight_norm`` and its like."""
    inner = f"parametrizations.{attribute}"
    for name, _ in module.named_parameters():
        owner, _, own = name.rpartition(".")
        if owner == inner or owner.startswith(f"{inner}.") or own in (f"{attribute}_{x}" for x in ("g", "v", "orig")):
            yield ".".join(filter(None, (path, owner))), own
