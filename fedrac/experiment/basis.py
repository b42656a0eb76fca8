"""The basis of a two-sided run: made once by the server, from its own data or pre-training's, and sent to the nodes."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedrac import data
from fedrac.algorithm import basis
from fedrac.algorithm.blocks import Block
from fedrac.data.batch import batches
from fedrac.experiment.settings import Experiment
from fedrac.training.input_moments import input_moments

log = logging.getLogger(__name__)

_ROWS = 256  # that the model computes at a time


def make(experiment: Experiment, model: nn.Module, blocks: tuple[Block, ...]) -> dict[str, Tensor]:
    """By `Block.key`: A (k0, n) of every block that has one, and B (m, p) where the basis is of weights; float64.

    Args:
        experiment: says where it comes from.
        model: with the weights before round 1; it computes the layers' inputs in float32, or float64 as the run does.

    Raises:
        ValueError: it comes from inputs, and there are no data that no client has.
    """
    fixed = [block for block in blocks if block.fixed]
    source = experiment.adapt.basis
    moments = _moments(experiment, model, fixed) if fixed and source == "inputs" else {}
    found: dict[str, Tensor] = {}
    for block in fixed:
        found |= _of_block(block, source, experiment.seed, model, moments.get(block.name))
    return {key: x.contiguous() for key, x in found.items()}  # as it is read from a file: products round alike


def _of_block(
    block: Block, source: str | None, seed: int, model: nn.Module, moment: Tensor | None
) -> dict[str, Tensor]:
    key, weight = block.key("A"), model.get_parameter(block.name)
    if source == "weights":
        return _of_weights(block, block.matrix(weight.detach().cpu()))
    if moment is not None:
        return {key: basis.of_moment(moment, block.fixed)}
    if source == "inputs":
        log.info("%s meets no inputs of which directions are known: its basis is random", block.name)
    each = [
        basis.cosine(block.n, block.fixed) if source == "cosine" else basis.random(seed, part, block.n, block.fixed)
        for part in block.parts
    ]
    return {key: _stacked(each, block)}


def _of_weights(block: Block, matrices: Tensor) -> dict[str, Tensor]:
    assert block.rank is not None
    pairs = [basis.of_weight(w, block.rank, block.fixed) for w in matrices.reshape(-1, block.m, block.n)]
    found = {block.key("A"): _stacked([right for _, right in pairs], block)}
    if block.columns is None:  # L is the identity
        return found
    left = _stacked([left for left, _ in pairs], block)
    if block.padding is not None:
        left[block.padding] = 0.0
    return {**found, block.key("B"): left}


def _stacked(matrices: list[Tensor], block: Block) -> Tensor:
    return matrices[0] if block.stack is None else torch.stack(matrices)


def _moments(experiment: Experiment, model: nn.Module, blocks: list[Block]) -> Mapping[str, Tensor]:
    """Of the inputs on data that no client has."""
    examples = data.load(_data(experiment)).train
    some = examples.take(np.unique(np.linspace(0, len(examples) - 1, experiment.basis.examples).astype(np.int64)))
    dtype = torch.float64 if experiment.runtime.dtype == "float64" else torch.float32
    model = model.to("cpu", dtype).eval()
    return input_moments(model, blocks, batches(some, _ROWS, torch.device("cpu"), dtype))


def _data(experiment: Experiment) -> dict[str, Any]:
    other = experiment.basis.data or (experiment.pretrain.data if experiment.pretrain.enabled else None)
    if not other:
        raise ValueError(
            "adapt.basis=inputs takes the layers' inputs on data that no client has, and there are none: set "
            "basis.data to what differs from data (e.g. +basis.data.path=public.csv), or adapt.basis=cosine, random or "
            "weights"
        )
    return {**experiment.data, "validation": None, **other}
