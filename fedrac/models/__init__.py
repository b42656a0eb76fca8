"""Models: any function that returns a ``torch.nn.Module``.

The module takes inputs (rows, ...) and returns (rows, outputs), or an object that holds them under the name ``logits``
(`fedrac.training.outputs`). A name under ``conf/model`` or the import
path of a user's own function under ``model._target_`` chooses it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fedrac.algorithm.streams import Stream
from fedrac.loading.target import construct
from fedrac.models.conv import cnn
from fedrac.models.dense import linear, mlp
from fedrac.models.norms import group_norm_for_batch_norm
from fedrac.models.recurrent import lstm
from fedrac.models.scaled import scaled_linear

__all__ = ["build", "cnn", "linear", "lstm", "mlp", "scaled_linear"]


def build(spec: Mapping[str, Any], seed: int) -> nn.Module:
    """The model that ``spec`` names, initialised from the stream ``model`` of ``seed``.

    Args:
        spec: e.g. ``{"_target_": "fedrac.models.mlp", "inputs": 784, "hidden": [64], "outputs": 5}``. One entry is no
            argument: with ``group_norm`` a GroupNorm takes the place of every BatchNorm (`fedrac.models.norms`).
        seed: the run's seed. Torch's generators are left as they were.

    Raises:
        ValueError: an unknown target, arguments that it does not take, or a result that is no ``nn.Module``.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed every accelerator, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(Stream(seed, "model").seed63())
        model = construct({key: value for key, value in spec.items() if key != "group_norm"}, "model")
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model._target_={spec['_target_']} returned a {type(model).__name__}: it must return a torch.nn.Module"
        )
    return group_norm_for_batch_norm(model) if spec.get("group_norm") else model
