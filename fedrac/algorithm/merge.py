"""Updates that go into weights: ``W + s B A``, the same bits on every machine, some rows of a matrix at a time."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fedrac.algorithm.blocks import Block
from fedrac.algorithm.means import add_rows
from fedrac.algorithm.state import ServerState

Room = Callable[[Tensor], Tensor]

_IN_NUMPY = (torch.float32, torch.float64)
_ENTRIES = 2**18  # of a matrix that are worked on at once: they stay in a core's cache


def product(b: Tensor, a: Tensor) -> Tensor:
    """``B A`` (..., m, n) as a sum of r outer products, in order, multiply and add apart: the same on every machine.

    Some rows at a time, so that the sums stay in a core's cache; all outer products at once, where they are so small.
    """
    if b.ndim == 2 and b.dtype in _IN_NUMPY and 0 < b.numel() * a.shape[-1] <= 2 * _ENTRIES:
        return _small_product(b, a)
    total = b.new_zeros(*b.shape[:-1], a.shape[-1])
    blocks = _row_blocks(total)
    outer = torch.empty_like(total[..., blocks[0], :]) if blocks else total
    for rows in blocks:
        part, left = total[..., rows, :], b[..., rows, :]
        for j in range(a.shape[-2]):
            part += torch.mul(left[..., j, None], a[..., None, j, :], out=outer[..., : part.shape[-2], :])
    return total


def _small_product(b: Tensor, a: Tensor) -> Tensor:
    """`product` of a few numbers: all outer products (r, m, n), and their sum by NumPy, which goes in order."""
    outer, total = b.new_empty(len(a), len(b), a.shape[1]), b.new_empty(len(b), a.shape[1])
    torch.mul(b.mT.unsqueeze(2), a.unsqueeze(1), out=outer)
    add_rows(outer.numpy().reshape(len(a), -1), total.numpy().reshape(-1))
    return total


def plus_product(w: Tensor, b: Tensor, a: Tensor, scale: float, room: Room = torch.empty_like) -> Tensor:
    """``W + scale * B A`` (..., m, n), some rows at a time: there is never another matrix as large as W.

    It has the bits of ``w + scale * product(b, a)``.

    Args:
        room: makes the empty tensor that it is written into, like a given one.
    """
    found = room(w)
    for rows in _row_blocks(w):
        torch.add(w[..., rows, :], product(b[..., rows, :], a).mul_(scale), out=found[..., rows, :])
    return found


def _row_blocks(matrix: Tensor) -> list[slice]:
    """Some rows each of a matrix, or of all of a stack (..., m, n)."""
    m = matrix.shape[-2]
    step = max(_ENTRIES * m // max(matrix.numel(), 1), 1)
    return [slice(start, start + step) for start in range(0, m, step)]


def effective_weights(state: ServerState, blocks: Sequence[Block], sketches: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model as it predicts: the weights, with carried factors merged into a copy.

    Args:
        state: where the run stands.
        blocks: what is trained.
        sketches: by `Block.sketch_key`, those that the carried factors belong to: (m, r) left, (r, n) right.

    Returns:
        By name in the state dict, in the master dtype.
    """
    weights = dict(state.weights)
    for block in blocks if state.factors else ():
        if block.rank is not None:
            w = weights[block.name]
            weights[block.name] = plus_update(block, sketches, state.factors, w, block.scale)
    return tie(weights, blocks)


def tie(weights: dict[str, Tensor], blocks: Sequence[Block]) -> dict[str, Tensor]:
    """A state dict names a tied parameter more than once; all names get the block's value."""
    for block in blocks:
        aliases = [name for name in block.names if name in weights and name != block.name]
        weights.update(dict.fromkeys(aliases, weights[block.name]))
    return weights


def update_of(block: Block, sketches: Mapping[str, Tensor], factors: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """``B A`` or ``B Z A`` of a block in the shape and dtype of its weight; what is not trained is the sketch."""
    return product(*_pair(block, sketches, factors, like)).reshape(like.shape)


def plus_update(
    block: Block,
    sketches: Mapping[str, Tensor],
    factors: Mapping[str, Tensor],
    w: Tensor,
    scale: float,
    room: Room = torch.empty_like,
) -> Tensor:
    """``W + scale * B A`` of a block, in the shape of W; as `update_of` and `plus_product`."""
    return plus_product(block.matrix(w), *_pair(block, sketches, factors, w), scale, room).reshape(w.shape)


def _pair(
    block: Block, sketches: Mapping[str, Tensor], factors: Mapping[str, Tensor], like: Tensor
) -> tuple[Tensor, Tensor]:
    """B, and A or ``Z A``; what is not trained is the sketch."""
    b, a = (factors.get(block.key(x), sketches.get(block.sketch_key(x))) for x in "BA")
    assert a is not None and b is not None
    a = a.to(like.dtype)
    if block.columns is not None:
        a = product(factors[block.key("Z")].to(like.dtype), a)
    return b.to(like.dtype), a
