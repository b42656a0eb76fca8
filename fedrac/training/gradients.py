"""What happens to a factor's gradient before the optimizer sees it; everything per client.

The entries of ``gradients`` are replaced, never written into: automatic differentiation may hand out one tensor for
several factors.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.sketch import Side, gram_inverse
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


def ranked_gram_inverse(
    blocks: Iterable[Block], frozen: Mapping[str, Tensor], ranks: Sequence[int]
) -> dict[str, Tensor]:
    """By `Block.sketch_key`, (C, ..., r, r): of the columns of the sketch that clients of these ranks train; else 0."""
    found = {}
    for block in blocks:
        for letter in "AB":
            if (sketch := frozen.get(block.key(letter))) is None or block.rank is None:
                continue
            whole = letter == "A" and block.columns is not None  # the other side of a core has no rank of clients
            side: Side = "left" if letter == "B" else "right"
            each = {rank: _padded(sketch, side, None if whole else rank) for rank in set(ranks)}
            found[block.sketch_key(letter)] = torch.stack([each[rank] for rank in ranks]).to(sketch.dtype)
    return found


def _padded(sketch: Tensor, side: Side, rank: int | None) -> Tensor:
    narrow = sketch[..., :rank] if side == "left" else sketch[..., :rank, :]
    inverse = gram_inverse(narrow, side)
    missing = sketch.shape[-1 if side == "left" else -2] - inverse.shape[-1]
    return torch.nn.functional.pad(inverse, (0, missing, 0, missing))


def precondition(gradients: dict[str, Tensor], blocks: Iterable[Block], inverses: Mapping[str, Tensor]) -> None:
    """The theory step: ``(B^T B)^+ grad_A / s^2`` (left), ``grad_B (A A^T)^+ / s^2`` (right), or both around a core.

    With plain SGD of rate gamma the merged weight moves by ``-gamma H grad f`` (eqs. 3 and 4 of arXiv 2410.08305), or
    by ``-gamma H_L grad f H_R``.
    """
    for block in blocks:
        if not {block.sketch_key("A"), block.sketch_key("B")} <= inverses.keys():
            continue
        left, right = (inverses[block.sketch_key(letter)] for letter in "BA")
        if (key := block.key("Z")) in gradients:
            gradients[key] = (left / block.scale**2) @ gradients[key] @ right
        elif (key := block.key("A")) in gradients:
            gradients[key] = (left / block.scale**2) @ gradients[key]
        else:
            gradients[block.key("B")] = gradients[block.key("B")] @ (right / block.scale**2)
