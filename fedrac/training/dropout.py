"""Dropout whose masks belong to a client, not to the place where it is trained.

PyTorch's dropout draws from one global generator, so a client's mask would depend on its neighbours in the batch.
Here every mask entry is a hash (SplitMix64) of the client's own key, the step, the call and the entry's own indices,
computed for the whole cohort in a few integer operations, equal on every device.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedrac.algorithm.streams import Stream
from fedrac.training.layout import Layout
from fedrac.training.way import NotTogether

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
        clients: ids; layouts number them in this order.
        device: where the masks are made.
    """

    def __init__(self, seed: int, round_: int, clients: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self._streams = [(seed, "dropout", round_, c) for c in clients]
        self._device = device
        self._step = self._calls = 0
        self._ahead = 1
        self._layout = Layout(len(clients), len(clients))
        self._alone: int | None = None
        self._refused = False
        self._first_call = 0
        # By call and client (if alone): what was asked, the first step, and what was drawn for it and those after it.
        self._made: dict[tuple[int, int | None], tuple[Any, int, Tensor]] = {}
        self.used = False

    @cached_property
    def _keys(self) -> Any:
        keys = np.array([int(Stream(*name).words(1)[0]) - 2**63 for name in self._streams], np.int64)
        return keys if self._device.type == "cpu" else torch.from_numpy(keys).to(self._device)

    def start(self, step: int, layout: Layout, ahead: int = 1) -> None:
        """Before each forward pass: its step, and whose its rows are; the clients are the first ones.

        ``ahead`` steps, this one counted, will be alike: masks are made for some of them at once.
        """
        self._step, self._layout, self._ahead, self._calls = step, layout, ahead, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACED.get(func)
        if replacement is None:
            return func(*args, **(kwargs or {}))
        return replacement(self, *args, **(kwargs or {}))

    @contextmanager
    def only(self, client: int, layout: Layout, first: bool) -> Iterator[None]:
        """While this is open, the batch has the rows of one client alone. All begin with the same call, the ``first``
        one's."""
        if first:
            self._first_call = self._calls
        whole, self._layout = self._layout, layout
        self._alone, self._calls = client, self._first_call
        try:
            yield
        finally:
            self._alone, self._layout = None, whole

    @contextmanager
    def refused(self) -> Iterator[None]:
        """While this is open, nothing can be drawn: it is not known for which client."""
        before, self._refused = self._calls, True
        try:
            yield
        finally:
            self._refused, self._calls = False, before

    def keep(self, like: Tensor, p: float, shape: Sequence[int]) -> Tensor:
        """A mask of ``shape`` (rows, ...): 1 / (1 - p) with probability 1 - p, else 0, in ``like``'s dtype."""

        def mask(bits: Any) -> Tensor:
            kept = torch.as_tensor(bits > (math.ceil(p * 2**53) << 11) - 2**63 - 1)
            return kept.to(like.dtype).div_(max(1.0 - p, torch.finfo(like.dtype).tiny))

        return self._drawn(tuple(shape), ("keep", p, like.dtype), mask)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers of ``shape`` (rows, ...), uniform in [0, 1), float64."""
        return self._drawn(
            tuple(shape), ("uniform",), lambda bits: torch.as_tensor((bits >> 11) + 2**52).double() * 2.0**-53
        )

    def _drawn(self, shape: tuple[int, ...], kind: tuple[Any, ...], make: Callable[[Any], Tensor]) -> Tensor:
        """What a call draws in this step; ``make`` turns the bits of several steps (steps, C, ...) into that."""
        layout = self._layout
        several = layout.clients > 1 or layout.owner is not None
        if self._refused or (several and (not shape or shape[0] % layout.rows)):
            raise NotTogether(
                f"what the model draws at random has the shape {shape} for a batch of {layout.rows}: the batch must be "
                "its first dimension"
            )
        self.used = True
        self._calls += 1
        asked, key = (shape, kind, layout), (self._calls, self._alone)
        known, first, drawn = self._made.get(key, (None, 0, torch.empty(0)))
        if known != asked or self._step >= first + len(drawn):
            first, steps = self._step, min(self._ahead, max(_ENTRIES // math.prod(shape), 1))
            drawn = make(self._bits(shape, steps)).reshape(steps, *shape)
            self._made[key] = asked, first, drawn
        return drawn[self._step - first]

    def _bits(self, shape: tuple[int, ...], steps: int) -> Any:
        """64 random bits for every entry of this call in this step and in those after it, as signed integers."""
        places = np.arange if self._device.type == "cpu" else partial(torch.arange, device=self._device)
        calls = places(self._step, self._step + steps) << 20 | self._calls
        layout = self._layout
        if layout.owner is None:
            keys = self._keys[: layout.clients] if self._alone is None else self._keys[self._alone : self._alone + 1]
            bits = _mix(keys + _GAMMA * calls[:, None])
            sizes = (shape[0] // layout.clients, *shape[1:]) if shape else ()
        else:
            owner, place = self._by_row(layout, shape[0] // layout.rows)
            bits = _mix(_mix(self._keys[owner] + _GAMMA * calls[:, None]) + _GAMMA * (place + 1))
            sizes = shape[1:]
        # One dimension after another: an entry's bits do not depend on how far the texts of others pad the batch.
        for size in sizes:
            bits = _mix(bits[..., None] + _GAMMA * places(1, size + 1))
        bits ^= -(2**63)  # now they compare as if they had no sign: their first 53 bits are the uniform number
        return bits

    def _by_row(self, layout: Layout, each: int) -> tuple[Any, Any]:
        """Client and place of all that a model has made of the rows, ``each`` of every row, one after another."""
        assert layout.owner is not None and layout.place is not None
        owner = layout.owner.repeat_interleave(each)
        place = (layout.place[:, None] * each + torch.arange(each, device=layout.place.device)).flatten()
        return (owner.numpy(), place.numpy()) if self._device.type == "cpu" else (owner, place)


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


def _multi_head(mode: ClientDropout, *args: Any, **kwargs: Any) -> Any:
    """``multi_head_attention_forward`` with the dropout of this mode: torch calls it as one function, inside it is not
    watched."""
    whole = F.multi_head_attention_forward
    inside = {"dropout": partial(_dropout, mode), "scaled_dot_product_attention": partial(_attention, mode)}
    names = {**whole.__globals__, **inside, "has_torch_function": lambda args: False}
    own = FunctionType(whole.__code__, names, whole.__name__, whole.__defaults__)
    return own(*args, **kwargs)


def _rand(mode: ClientDropout, *size: Any, generator: Any = None, dtype: Any = None, **options: Any) -> Tensor:
    if generator is not None:
        return torch.rand(*size, generator=generator, dtype=dtype, **options)
    shape = size[0] if size and not isinstance(size[0], int) else size
    kept = {name: value for name, value in options.items() if name in ("device", "requires_grad")}
    return mode.uniform(tuple(options.get("size", shape))).to(kept.get("device"), dtype or torch.get_default_dtype())


def _rand_like(mode: ClientDropout, like: Tensor, *, dtype: Any = None, **options: Any) -> Tensor:
    return mode.uniform(like.shape).to(like.device, dtype or like.dtype)


def _bernoulli_(mode: ClientDropout, x: Tensor, p: float | Tensor = 0.5, *, generator: Any = None) -> Tensor:
    if generator is not None:
        return x.bernoulli_(p, generator=generator)
    return x.copy_(mode.uniform(x.shape).to(x.device) < p)


def _bernoulli(mode: ClientDropout, x: Tensor, p: float | None = None, **options: Any) -> Tensor:
    return (mode.uniform(x.shape).to(x.device) < (x if p is None else p)).to(x.dtype)


@contextmanager
def no_global_draws(device: torch.device) -> Iterator[None]:
    """While this is open, nothing may draw from the global generators of PyTorch, NumPy and Python.

    Raises:
        NotTogether: something did, on the way out.
    """
    before = _generator_states(device)
    yield
    if before != _generator_states(device):
        raise NotTogether(
            "the model draws random numbers from a global generator (dropout inside an RNN, alpha dropout, noise, a "
            "layer that is skipped at random, ...), so that a client's numbers would depend on who is trained with it: "
            "set that dropout to 0 or use nn.Dropout"
        )


def _generator_states(device: torch.device) -> tuple[Any, ...]:
    numbers: Any = np.random.get_state()
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    own = [state.numpy().tobytes() for state in (torch.get_rng_state(), *cuda)]
    return (*own, numbers[1].tobytes(), numbers[2:], random.getstate())


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.dropout: _dropout,
    torch.dropout: lambda mode, x, p, train: _dropout(mode, x, p, train),
    F.dropout1d: _channel_dropout,
    F.dropout2d: _channel_dropout,
    F.dropout3d: _channel_dropout,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head,
    torch.rand: _rand,
    torch.rand_like: _rand_like,
    torch.Tensor.bernoulli_: _bernoulli_,
    torch.bernoulli: _bernoulli,
}
