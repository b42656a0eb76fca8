"""Examples as a batch of tensors: what a model takes, and what its outputs are compared with."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fedrac.data.examples import Examples, as_tensor
from fedrac.data.split import Index
from fedrac.data.tasks import IGNORED
from fedrac.data.tokens import Tokens

_TEXTS, _TOKENS = 64, 8192  # of one batch: their activations are what takes memory

Batch = tuple[Tensor, Tensor]


def batch(examples: Examples, device: torch.device, dtype: torch.dtype) -> Batch:
    """All of ``examples`` as one batch.

    Returns:
        Inputs (rows, ...) in ``dtype``, integers as they are; for texts (rows, 2 or 3, longest) int64 as
        `Tokens.padded` gives them.
        Targets as they are, those of a text's tokens up to the longest text; for a language model the next token ids
        (rows, longest), `IGNORED` at a text's last token and where there is padding.
    """
    texts = isinstance(examples.inputs, Tokens)
    array = examples.inputs.padded() if isinstance(examples.inputs, Tokens) else examples.inputs
    inputs = _placed(torch.from_numpy(array), device, dtype)
    if examples.targets is None:
        return inputs, following(inputs)
    targets = torch.from_numpy(examples.targets).to(device)
    of_tokens = texts and targets.ndim == 2 and not targets.is_floating_point()
    return inputs, targets[:, : inputs.shape[2]] if of_tokens else targets


def _placed(inputs: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Integers stay integers: in bfloat16 most token ids would become others."""
    return inputs.to(device, dtype) if inputs.is_floating_point() else inputs.to(device)


class Rows:
    """Any rows of examples as a `batch`, with little to do in every step.

    Attributes:
        lengths: (N,) int64, tokens of every text; None: they are no texts.
    """

    def __init__(self, examples: Examples, device: torch.device, dtype: torch.dtype) -> None:
        self._examples, self._device, self._dtype = examples, device, dtype
        texts = examples.inputs
        self.lengths = torch.from_numpy(texts.lengths) if isinstance(texts, Tokens) else None
        self._inputs = None if isinstance(examples.inputs, Tokens) else as_tensor(examples.inputs)
        self._targets = None if examples.targets is None else as_tensor(examples.targets)

    def __call__(self, index: Tensor) -> Batch:
        """The batch of rows ``index`` (k,) int64."""
        if self._inputs is None or self._targets is None:
            return batch(self._examples.take(index.numpy()), self._device, self._dtype)
        inputs, targets = self._inputs.index_select(0, index), self._targets.index_select(0, index)
        return _placed(inputs, self._device, self._dtype), targets.to(self._device)


def following(texts: Tensor) -> Tensor:
    """The next token (rows, length) of every token of texts (rows, 2 or 3, length); `IGNORED` where there is none."""
    after = texts.roll(-1, dims=2)
    after[:, 1, -1] = 0
    return after[:, 0].masked_fill(after[:, 1] == 0, IGNORED)


def batches(examples: Examples, size: int, device: torch.device, dtype: torch.dtype) -> Iterator[Batch]:
    """Batches of at most ``size`` rows (64 for texts, fewer if they are long), in the order of `order_of`."""
    order = order_of(examples)
    for part in _parts(examples, order, size):
        yield batch(examples.take(order[part]), device, dtype)


def order_of(examples: Examples) -> Index:
    """The order (N,) int64 in which `batches` has the examples: texts of the same length beside one another, the
    longest first, so that little is computed for padding."""
    if not isinstance(examples.inputs, Tokens):
        return np.arange(len(examples))
    return np.argsort(-examples.inputs.lengths, kind="stable")


def _parts(examples: Examples, order: Index, size: int) -> Iterator[slice]:
    start = 0
    while start < len(order):
        step = size
        if isinstance(examples.inputs, Tokens):
            longest = int(examples.inputs.lengths[order[start]])
            step = min(size, _TEXTS, max(_TOKENS // longest, 1))
        yield slice(start, start := min(start + step, len(order)))
