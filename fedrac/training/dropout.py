"""Dropout whose masks belong to a client, not to the place where it is trained.

PyTorch's dropout draws from one global generator, so a client's mask would depend on its neighbours in the batch.
Here every mask entry is a hash (SplitMix64) of the client's own key, the step, the call and the entry's own indices,
computed for the whole cohort in a few integer operations, equal on every device.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedrac.algorithm.streams import Stream

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15, the golden-ratio increment of SplitMix64, as int64

_ENTRIES = 1 << 16  # of the masks that are made at once

# The same operators work on both; NumPy is three times as fast on a mask of some thousand entries.
Words = TypeVar("Words", NDArray[np.int64], Tensor)


def _mix(x: Words) -> Words:
    """The finaliser of SplitMix64 on int64, in place (arithmetic wraps)."""
    x = _fold(x, 30)
    x *= -4658895280553007687
    x = _fold(x, 27)
    x *= -7723592293110705685
    return _fold(x, 31)


def _fold(x: Words, shift: int) -> Words:
    shifted = x >> shift
    shifted &= (1 << 64 - shift) - 1  # so that no sign comes in from the left
    x ^= shifted
    return x


class ClientDropout(TorchFunctionMode):
    """While it is entered, dropout of rows that belong to several clients draws from each client's own stream.

    Args:
        seed: the run's seed.
        round_: the round.
        clients: ids, in the order in which their rows lie in the batch.
        device: where the masks are made.
    """

    def __init__(self, seed: int, round_: int, clients: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self._streams = [(seed, "dropout", round_, c) for c in clients]
        self._device = device
        self._step = self._calls = 0
        self._ahead = 1
        self._clients = self._rows = len(clients)
        self._made: dict[int, tuple[Any, int, Tensor]] = {}  # by call: what was asked, the first step, masks of steps
        self.used = False

    @cached_property
    def _keys(self) -> Any:
        keys = np.array([int(Stream(*name).words(1)[0]) - 2**63 for name in self._streams], np.int64)
        return keys if self._device.type == "cpu" else torch.from_numpy(keys).to(self._device)

    def start(self, step: int, clients: int, rows: int, ahead: int = 1) -> None:
        """Before each forward pass: its step, how many clients (the first ones) are in the batch, and its rows.

        ``ahead`` steps, this one counted, will be alike: masks are made for some of them at once.
        """
        self._step, self._clients, self._rows, self._ahead, self._calls = step, clients, rows, ahead, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACED.get(func)
        if replacement is None:
            return func(*args, **(kwargs or {}))
        return replacement(self, *args, **(kwargs or {}))

    def keep(self, like: Tensor, p: float, shape: Sequence[int]) -> Tensor:
        """A mask of ``shape`` (rows, ...): 1 / (1 - p) with probability 1 - p, else 0, in ``like``'s dtype."""
        if shape[0] % self._rows:
            raise ValueError(
                f"dropout saw {shape[0]} rows for a batch of {self._rows}: the batch must be the first dimension "
                "of what is dropped"
            )
        self.used = True
        self._calls += 1
        asked = (tuple(shape), p, like.dtype, self._clients)
        known, first, masks = self._made.get(self._calls, (None, 0, like))
        if known != asked or self._step >= first + len(masks):
            first, masks = self._step, self._masks(*asked)
            self._made[self._calls] = asked, first, masks
        return masks[self._step - first]

    def _masks(self, shape: tuple[int, ...], p: float, dtype: torch.dtype, clients: int) -> Tensor:
        """The masks of this call in this step and in those after it, as many as are alike and small together."""
        steps = min(self._ahead, max(_ENTRIES // math.prod(shape), 1))
        places = np.arange if self._device.type == "cpu" else partial(torch.arange, device=self._device)
        calls = places(self._step, self._step + steps) << 20 | self._calls
        bits = _mix(self._keys[:clients] + _GAMMA * calls[:, None])
        # One dimension after another: an entry's bits do not depend on how far the texts of others pad the batch.
        for size in (shape[0] // clients, *shape[1:]):
            bits = _mix(bits[..., None] + _GAMMA * places(1, size + 1))
        bits ^= -(2**63)  # now they compare as if they had no sign: their first 53 bits are the uniform number
        kept = torch.as_tensor(bits > (math.ceil(p * 2**53) << 11) - 2**63 - 1)
        return kept.to(dtype).div_(max(1.0 - p, torch.finfo(dtype).tiny)).reshape(steps, *shape)


def _dropout(mode: ClientDropout, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return x * mode.keep(x, p, x.shape) if training and p > 0 else x


def _channel_dropout(
    mode: ClientDropout, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return x
    return x * mode.keep(x, p, x.shape[:2]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def _attention(
    mode: ClientDropout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention``; with dropout it is written out, because the fused kernels draw inside."""
    if dropout_p == 0.0:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        blocked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, float("-inf")) if blocked else scores + attn_mask
    weights = scores.softmax(-1)
    return weights * mode.keep(weights, dropout_p, weights.shape) @ value


@contextmanager
def no_global_draws(device: torch.device) -> Iterator[None]:
    """While this is open, nothing may draw from PyTorch's global generators.

    Raises:
        ValueError: something did, on the way out.
    """
    before = _generator_states(device)
    yield
    if any(not torch.equal(a, b) for a, b in zip(before, _generator_states(device), strict=True)):
        raise ValueError(
            "the model draws random numbers from PyTorch's global generator (dropout inside nn.MultiheadAttention or "
            "an RNN, alpha dropout, torch.rand, ...), so that a client's result would depend on where it is trained: "
            "set that dropout to 0 and use nn.Dropout or F.scaled_dot_product_attention"
        )


def _generator_states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.dropout: _dropout,
    torch.dropout: lambda mode, x, p, train: _dropout(mode, x, p, train),
    F.dropout1d: _channel_dropout,
    F.dropout2d: _channel_dropout,
    F.dropout3d: _channel_dropout,
    F.scaled_dot_product_attention: _attention,
}
