"""A cohort of clients against each of them alone with plain PyTorch, in float64.

What is compared with has nothing of fedrac's engine: a copy of the model, the client's own rows, and
``torch.optim.SGD`` on its parameters; at low rank on A alone, with ``W + s B A`` put into the copy by
``torch.func.functional_call``. From fedrac it takes which parameters are trained, and the sketch.
"""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from architectures.architecture import SIZES, Architecture
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import ParametrizationList

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import Block, plan_blocks
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import Start, draw_sketches, start_of_round
from fedrac.algorithm.sketch import SketchSpec
from fedrac.training.local import train_cohort
from fedrac.training.model_check import check_model
from fedrac.training.optimizer import LocalSpec
from fedrac.training.outputs import outputs_of
from fedrac.training.setup import Shard, TrainingSetup

MODES = {"low rank": Method(side="left"), "full": Method("FedAvg", train="full")}
RANK, LR, STEPS = 2, 0.05, 2
EXACT = 1e-7  # of the longest step: rounding, which deep models enlarge


@dataclass(frozen=True)
class Outcome:
    """What a cohort's training was.

    Attributes:
        difference: the largest of any client's factor, in units of the largest step of any factor; None if refused.
        refused: the message, if it was.
        alone: why the clients were trained one at a time, if they were.
    """

    difference: float | None = None
    refused: str = ""
    alone: str = ""


def outcome(architecture: Architecture, mode: str) -> Outcome:
    """Trains three clients of 3, 5 and 8 examples together, two full-batch steps of SGD, and each alone."""
    model, method = architecture.model(), MODES[mode]
    untouched = copy.deepcopy(model)  # some keep what they saw
    logging.getLogger("fedrac").setLevel(logging.ERROR)
    rank = RANK if mode == "low rank" else "full"
    try:
        check_model(model.eval(), architecture.examples(), architecture.what, torch.device("cpu"), torch.float64)
        blocks = plan_blocks(model, AdaptSpec({"*": rank}, ["*"] if rank == "full" else [], alpha=3.0), method)
        model.requires_grad_(False)
        sketches = draw_sketches(blocks, method, SketchSpec(), 1)
        start = start_of_round(blocks, method.at(1), sketches.values, {}, torch.float64)
        problem = TrainingSetup(model, blocks, architecture.loss, architecture.take)
        shards = [Shard(c, rows) for c, rows in enumerate(torch.arange(sum(SIZES)).split(SIZES))]
        found = train_cohort(problem, start, shards, LocalSpec(lr=LR, sampling="full", epochs=STEPS), 0, 1).factors
    except ValueError as error:
        return Outcome(refused=" ".join(str(error).split()))
    expected = [alone(architecture, untouched, blocks, start, shard.index) for shard in shards]
    return Outcome(_difference(found, expected, start), alone=_alone(problem))


def alone(
    architecture: Architecture, model: nn.Module, blocks: tuple[Block, ...], start: Start, index: Tensor
) -> Mapping[str, Tensor]:
    """One client's factors by key, from plain PyTorch."""
    model = _training(copy.deepcopy(model))
    trained = {key: value.clone().requires_grad_() for key, value in start.trained.items()}
    optimizer = torch.optim.SGD(trained.values(), LR)
    inputs, targets = architecture.take(index)
    for _ in range(STEPS):
        optimizer.zero_grad()
        weights = {block.name: _weight(model, block, {**start.frozen, **trained}) for block in blocks}
        architecture.loss(outputs_of(functional_call(model, weights, (inputs,))), targets).mean().backward()
        optimizer.step()
    return {key: value.detach() for key, value in trained.items()}


def _weight(model: nn.Module, block: Block, factors: Mapping[str, Tensor]) -> Tensor:
    weight = model.get_parameter(block.name)
    if block.rank is None:
        return weight + factors[block.key("D")]
    return weight + (block.scale * factors[block.key("B")] @ factors[block.key("A")]).reshape(weight.shape)


def _training(model: nn.Module) -> nn.Module:
    """Training mode; the running statistics of norms, and the vectors of spectral_norm, stay as they are."""
    for module in model.train().modules():
        if getattr(module, "running_mean", None) is not None or isinstance(module, ParametrizationList):
            module.eval()
    return model


def _difference(found: Mapping[str, Tensor], expected: list[Mapping[str, Tensor]], start: Start) -> float:
    step = max(float((own[key] - value).abs().max()) for own in expected for key, value in start.trained.items())
    assert step > 1e-6, "nothing moves: the comparison would say nothing"
    apart = [(found[key][c] - own[key]).abs().max() for c, own in enumerate(expected) for key in own]
    return float(torch.stack(apart).max()) / step  # NaN, too, is a difference


def _alone(problem: TrainingSetup) -> str:
    ways = getattr(problem, "ways", None)
    return next((way.alone for way in ways.found.values() if way.alone), "") if ways else ""
