"""The objective of a run, computed in one place: for experiments that compare it with what the theory says."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.server import shares
from fedrac.data import Data
from fedrac.data.batch import batches, order_of
from fedrac.experiment.settings import Experiment
from fedrac.models.weights import use
from fedrac.partition import partition
from fedrac.training import evaluation


def example_weights(experiment: Experiment, examples: Data) -> Tensor:
    """What every training example counts in ``f``, (N,) float64, summing to 1; 0 for one that no client has.

    ``f`` is the mean of the clients' mean losses; with ``server.weighting=examples`` the mean over all examples.
    """
    parts = partition.make(experiment.partition, examples, experiment.seed)
    weights = np.zeros(len(examples.train))
    weights[parts.index] = np.repeat(
        shares(parts.sizes.tolist(), experiment.server.weighting) / parts.sizes, parts.sizes
    )
    return torch.from_numpy(weights)


def objective(
    experiment: Experiment, model: nn.Module, examples: Data, blocks: Sequence[Block]
) -> Callable[[Mapping[str, Tensor]], float]:
    """A function of the merged weights: ``f(W) + l2/2 ||W||^2``, the second part over the trained weights.

    Args:
        model: computes the outputs, on the device and in the dtype that it has.
        examples: the training part counts.
        blocks: the trained parameters.
    """
    reference = next(model.parameters())
    size, l2 = experiment.evaluate.batch_size, experiment.local.l2
    parts = list(batches(examples.train, size, reference.device, reference.dtype))
    ordered = example_weights(experiment, examples)[torch.from_numpy(order_of(examples.train))]
    weights = torch.split(ordered.to(reference.device), [len(y) for _, y in parts])

    @torch.no_grad()
    def value(merged: Mapping[str, Tensor]) -> float:
        use(model, merged)
        model.eval()
        losses = [examples.task.loss(evaluation.call(model, x), y).double() for x, y in parts]
        total = sum(float(loss @ weight) for loss, weight in zip(losses, weights, strict=True))
        norms = sum(float(merged[b.name].double().square().sum()) for b in blocks if len(b.shape) > 1)
        return total + l2 / 2 * norms

    return value
