"""What happens to a factor's gradient before the optimizer sees it; everything per client.

The entries of ``gradients`` are replaced, never written into: automatic differentiation may hand out one tensor for
several factors.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.training.setup import TrainingSetup


def add_l2(gradients: dict[str, Tensor], factors: Mapping[str, Tensor], problem: TrainingSetup, l2: float) -> None:
    """Adds the gradient of ``l2/2 ||W + s B A||^2`` in closed form, without forming ``B A``.

    For A it is ``l2 s (B^T W + s B^T B A)``, for B ``l2 s (W A^T + s B A A^T)``, for the core of ``s B Z A``
    ``l2 s (B^T W A^T + s B^T B Z A A^T)``, for D ``l2 (W + D)``. Weights only: a bias or norm that is trained in full
    is left alone.
    """
    for block in problem.blocks:
        if len(block.shape) == 1:
            continue
        weight = problem.model.get_parameter(block.name)
        if (key := block.key("D")) in gradients:
            gradients[key] = gradients[key] + l2 * (weight + factors[key])
            continue
        s, a, b, w = block.scale, factors[block.key("A")], factors[block.key("B")], block.matrix(weight)
        if (key := block.key("Z")) in gradients:
            gradients[key] = gradients[key] + l2 * s * (b.mT @ w @ a.mT + s * (b.mT @ b) @ factors[key] @ (a @ a.mT))
        if (key := block.key("A")) in gradients:
            gradients[key] = gradients[key] + l2 * s * (b.mT @ w + s * (b.mT @ b) @ a)
        if (key := block.key("B")) in gradients:
            gradients[key] = gradients[key] + l2 * s * (w @ a.mT + s * b @ (a @ a.mT))


def add_prox(
    gradients: dict[str, Tensor], factors: Mapping[str, Tensor], start: Mapping[str, Tensor], prox: float
) -> None:
    """Adds the gradient of FedProx's ``prox/2 |F - F_0|^2`` (arXiv 1812.06127), for each factor F (C, ...)."""
    for key, gradient in gradients.items():
        gradients[key] = gradient + prox * (factors[key] - start[key].to(gradient.device))


def clip_per_client(gradients: dict[str, Tensor], bound: float) -> None:
    """Scales each client's gradient (C, ...) so that its norm over all factors is at most ``bound``."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
    scale = (bound / squares.sqrt().clamp_min(torch.finfo(squares.dtype).tiny)).clamp_max(1.0)
    for key, gradient in gradients.items():
        gradients[key] = gradient * scale.view(-1, *[1] * (gradient.ndim - 1))


def precondition(gradients: dict[str, Tensor], blocks: Iterable[Block], gram_inverse: Mapping[str, Tensor]) -> None:
    """The theory step: ``(B^T B)^+ grad_A / s^2`` (left), ``grad_B (A A^T)^+ / s^2`` (right), or both around a core.

    With plain SGD of rate gamma the merged weight moves by ``-gamma H grad f`` (eqs. 3 and 4 of arXiv 2410.08305), or
    by ``-gamma H_L grad f H_R``.
    """
    for block in blocks:
        if not {block.sketch_key("A"), block.sketch_key("B")} <= gram_inverse.keys():
            continue
        left, right = (gram_inverse[block.sketch_key(letter)] for letter in "BA")
        if (key := block.key("Z")) in gradients:
            gradients[key] = (left / block.scale**2) @ gradients[key] @ right
        elif (key := block.key("A")) in gradients:
            gradients[key] = (left / block.scale**2) @ gradients[key]
        else:
            gradients[block.key("B")] = gradients[block.key("B")] @ (right / block.scale**2)
