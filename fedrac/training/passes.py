"""How the rows of a step go through a model: texts of about the same length together, whatever client they are of.

A batch of texts is as wide as its longest one, and what stands behind the others is computed for nothing. So the texts
of all mini-batches of a step are put in order of length and cut into passes; the gradients of the passes add up.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fedrac.algorithm.streams import Index
from fedrac.training.layout import Layout

MOST = 16384  # tokens of a pass: with more it is no faster
_PASS = 32  # tokens that could be computed in the time that a pass takes besides its tokens


@dataclass(frozen=True)
class Pass:
    """Rows that go through the model together.

    Attributes:
        at: (R,) int64, their places in the step's table of mini-batches (k, b), flattened.
        layout: whose they are.
        tokens: that are computed, padding included; rows, of what has no length.
    """

    at: Tensor
    layout: Layout
    tokens: int


def passes(table: Tensor, real: Tensor, lengths: Tensor | None, most: int = MOST) -> list[Pass]:
    """The passes of one step of k clients.

    Args:
        table: (k, b) int64, rows of the data: the mini-batches.
        real: (k, b) bool, False for what only fills a short mini-batch up. Of texts it is left out.
        lengths: (examples,) int64, tokens of every text of the data; None: they have no lengths, and go together.
        most: tokens of a pass; a text that is longer has one by itself.
    """
    if lengths is None:
        return [Pass(torch.arange(table.numel()), Layout(len(table), table.numel()), table.numel())]
    at = real.flatten().nonzero()[:, 0]
    own = lengths[table.flatten()[at]]
    order = falling(own.numpy())
    at, widths = at[torch.from_numpy(order)], own.numpy()[order]
    return [_pass(at[part], table.shape, int(widths[part.start])) for part in cut(widths, most)]


def _pass(at: Tensor, shape: torch.Size, longest: int) -> Pass:
    return Pass(at, Layout(shape[0], len(at), at // shape[1], at % shape[1]), len(at) * longest)


def falling(lengths: Index) -> Index:
    """The order in which lengths (R,) fall; equal ones stay in their order."""
    return np.argsort(-lengths, kind="stable")


def cut(lengths: Index, most: int) -> list[slice]:
    """Where to cut lengths (R,) that fall, so that what is computed is least: tokens, padding included, and `_PASS`
    for every pass. Dynamic programming over the places where the length changes."""
    first = np.flatnonzero(np.diff(lengths, prepend=-1))
    end, widest = np.append(first[1:], len(lengths)), lengths[first]
    fits = np.maximum(most // widest, 1)
    least, best = np.zeros(len(first) + 1), np.zeros(len(first), np.int64)
    for j in range(len(first)):
        rows = end[j] - first[: j + 1]
        cost = least[: j + 1] + rows * widest[: j + 1] + _PASS * np.ceil(rows / fits[: j + 1])
        best[j] = cost.argmin()
        least[j + 1] = cost[best[j]]
    found: list[slice] = []
    j = len(first) - 1
    while j >= 0:
        i = int(best[j])
        found[:0] = _evenly(int(first[i]), int(end[j]), int(fits[i]))
        j = i - 1
    return found


def _evenly(begin: int, end: int, most: int) -> list[slice]:
    """Parts of at most so many rows, as equal as can be."""
    edges = np.linspace(begin, end, -(-(end - begin) // most) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]
