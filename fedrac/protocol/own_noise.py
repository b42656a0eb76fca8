"""Clipping and noise that a node adds itself, before anything leaves it: local differential privacy."""

import os
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedrac.aggregation.robust import lengths
from fedrac.aggregation.update_vectors import UpdateVectors
from fedrac.algorithm.streams import uniform
from fedrac.protocol.policy import Policy
from fedrac.protocol.replies import Reply


def protected(reply: Reply, space: UpdateVectors, policy: Policy) -> Reply:
    """A reply whose updates are clipped, and hidden by noise where the policy has it.

    Whatever data a client has, its update is no longer than ``clip``: with noise the update is a Gaussian mechanism of
    sensitivity 2 clip and standard deviation noise x clip. The loss and the number of examples, which no noise hides,
    are then told as 0 and 1.

    Args:
        reply: what the clients found.
        space: in which updates are measured, as `fedrac.aggregation.guard` does.
        policy: with ``clip``.
    """
    if policy.clip is None or not reply.clients:
        return reply
    rows = space.rows(reply.factors)
    found = lengths(rows).unsqueeze(1)
    rows = torch.where(found.isfinite(), rows * (policy.clip / found.clamp(min=policy.clip)), 0.0)
    if policy.noise:
        rows = rows + policy.noise * policy.clip * system_normal(rows.numel()).reshape(rows.shape)
    each = [space.factors(row) for row in rows]
    factors = {k: torch.stack([one[k] for one in each]).to(v.dtype) for k, v in reply.factors.items()}
    if not policy.noise:
        return replace(reply, factors=factors)
    count = len(reply.clients)
    return replace(reply, factors=factors, losses=[0.0] * count, examples=[1] * count)


def system_normal(count: int) -> Tensor:
    """(count,) standard normal numbers, float64, from the operating system: no seed leads to them."""
    words = np.frombuffer(os.urandom(8 * count), np.uint64)
    numbers: Tensor = torch.special.ndtri(torch.from_numpy(uniform(words)))
    return numbers
