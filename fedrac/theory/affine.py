"""From a configuration to its convex problem: the outputs must be affine in everything that is trained."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from fedrac import data, models
from fedrac.algorithm.blocks import Block, plan_blocks
from fedrac.data.tokens import Tokens
from fedrac.experiment.pretrain import initial_weights
from fedrac.experiment.settings import Experiment
from fedrac.partition import partition
from fedrac.theory.convex import Convex
from fedrac.training.outputs import outputs_of

_MOST = 10**8  # entries of the Jacobian: 800 MB

Outputs = Callable[[Tensor, Tensor], Tensor]


def convex_problem(experiment: Experiment) -> Convex:
    """The problem of a configuration.

    Raises:
        ValueError: it is not convex in this sense, clients have different numbers of examples, or it is too large.
    """
    examples = data.load(experiment.data)
    model = models.build(experiment.model, experiment.seed).double().eval()
    model.load_state_dict({name: value.double() for name, value in initial_weights(experiment).items()})
    blocks = plan_blocks(model, experiment.adapt, experiment.method)
    outputs, start = _outputs(model.requires_grad_(False), blocks)
    _check_affine(outputs, start, _inputs(examples.train.take(np.arange(min(len(examples.train), 8)))))
    parts = partition.make(experiment.partition, examples, experiment.seed)
    if len(set(parts.sizes.tolist())) > 1:
        raise ValueError(
            f"clients have {parts.sizes.min()} to {parts.sizes.max()} examples; the theorems are for clients of one "
            "size: e.g. partition=iid with partition.clients a divisor of the number of examples"
        )
    train = examples.train.take(parts.index)
    inputs, targets = _inputs(train), torch.tensor(train.targets)
    jacobian = _jacobian(outputs, start, inputs)
    offset = outputs(start, inputs) - jacobian @ start
    l2 = [
        torch.full((math.prod(b.shape),), experiment.local.l2 * (len(b.shape) > 1), dtype=torch.float64) for b in blocks
    ]

    def by_client(part: Tensor) -> Tensor:
        return part.reshape(parts.clients, -1, *part.shape[1:])

    targets = targets.double() if examples.task.name == "regression" else targets
    return Convex(examples.task.name, by_client(jacobian), by_client(offset), by_client(targets), torch.cat(l2), start)


def _inputs(examples: data.Examples) -> Tensor:
    if isinstance(examples.inputs, Tokens):
        raise ValueError("the theorems' constants are known for convex problems only, not for language models")
    return torch.from_numpy(examples.inputs).double()


def _outputs(model: nn.Module, blocks: Sequence[Block]) -> tuple[Outputs, Tensor]:
    """The model's outputs (rows, k) as a function of the trained numbers (p,) and inputs; the numbers as they are."""
    parameters = {block.name: model.get_parameter(block.name) for block in blocks}

    def outputs(w: Tensor, x: Tensor) -> Tensor:
        parts = torch.split(w, [value.numel() for value in parameters.values()])
        own = {n: part.reshape(v.shape) for part, (n, v) in zip(parts, parameters.items(), strict=True)}
        result = outputs_of(functional_call(model, own, (x,)))
        return result

    return outputs, torch.cat([value.flatten() for value in parameters.values()])


def _check_affine(outputs: Outputs, start: Tensor, inputs: Tensor) -> None:
    """The middle between two points has the middle of their outputs."""
    away = torch.linspace(-3, 3, len(start), dtype=torch.float64)
    ends = outputs(start, inputs), outputs(away, inputs)
    error = (outputs((start + away) / 2, inputs) - (ends[0] + ends[1]) / 2).abs().max()
    if not error <= 1e-9 * (1 + max(float(end.abs().max()) for end in ends)):
        raise ValueError(
            "the theorems' constants are known for convex problems only, and here the outputs are not affine in what "
            "is trained (several layers?): use model=linear, or train the last layer alone "
            "('adapt.layers={*: frozen, LAST: 1}'); for other models step sizes have to be tried"
        )


def _jacobian(outputs: Outputs, start: Tensor, inputs: Tensor) -> Tensor:
    """(rows, k, p)."""
    entries = len(inputs) * outputs(start, inputs[:1]).shape[1] * len(start)
    if entries > _MOST:
        raise ValueError(
            f"{len(inputs)} examples and {len(start)} trained numbers: their Jacobian has {entries:.1e} entries, the "
            f"most is {_MOST:.0e}; use fewer examples, or a smaller model"
        )
    one = jacrev(lambda w, x: outputs(w, x.unsqueeze(0))[0])
    found: Tensor = vmap(one, (None, 0), chunk_size=256)(start, inputs)
    return found
