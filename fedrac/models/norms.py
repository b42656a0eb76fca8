"""BatchNorm in a federation: frozen, or GroupNorm in its place.

BatchNorm mixes the examples of a batch, and clients that differ pull its running statistics apart (Hsieh et al., arXiv
1910.00189). fedrac leaves the statistics as they are (FixBN, Zhong et al., arXiv 2303.06530, does so in later rounds),
which suits a model that was trained before. A model that starts at random has none worth keeping: there GroupNorm (Wu
and He, arXiv 1803.08494) is what the field takes.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

_MOST_GROUPS = 32  # as Wu and He have it, and Opacus where it replaces BatchNorm


def frozen(model: nn.Module) -> list[str]:
    """Paths of the layers whose running statistics a run leaves as they are."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    ]


def note(model: nn.Module) -> str:
    """What a run's user must know of them, in one line; empty where there are none."""
    if not (paths := frozen(model)):
        return ""
    layer = type(model.get_submodule(paths[0])).__name__
    return (
        f"the running statistics of {len(paths)} layers ({paths[0]}, a {layer}, ...) stay as they are; "
        "model.group_norm=true puts a GroupNorm in the place of every BatchNorm"
    )


def group_norm_for_batch_norm(model: nn.Module) -> nn.Module:
    """The model with an ``nn.GroupNorm`` in the place of every BatchNorm, with its scale and shift.

    There are as many groups as divide the channels with at least two in each, 32 at most; one group in the place of a
    ``BatchNorm1d``, whose inputs may be (rows, channels): two numbers of a row, normalised, would keep a sign only.

    Returns:
        ``model`` itself, changed; or the new layer where the model is a single BatchNorm.
    """
    for path, module in list(model.named_modules()):
        if isinstance(module, _BatchNorm):
            new = _group_norm(module)
            if not path:
                return new
            model.set_submodule(path, new)
    return model


def _group_norm(old: _BatchNorm) -> nn.GroupNorm:
    channels = old.num_features
    groups = 1 if isinstance(old, nn.BatchNorm1d) else _groups(channels)
    new = nn.GroupNorm(groups, channels, old.eps, old.affine)
    if old.affine:
        new.weight, new.bias = old.weight, old.bias
    return new.train(old.training)


def _groups(channels: int) -> int:
    return max(
        groups
        for groups in range(1, _MOST_GROUPS + 1)
        if channels % groups == 0 and (groups == 1 or channels >= 2 * groups)
    )
