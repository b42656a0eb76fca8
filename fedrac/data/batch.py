"""Examples as a batch of tensors: what a model takes, and what its outputs are compared with."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fedrac.data.examples import Examples, as_tensor
from fedrac.data.split import Index
from fedrac.data.tasks import IGNORED
from fedrac.data.tokens import Tokens

_SHARE = 8  # the examples take this part of a device's memory at most
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
    array = examples.inputs.padded() if isinstance(examples.inputs, Tokens) else examples.inputs
    inputs = _placed(torch.from_numpy(array), device, dtype)
    if examples.targets is None:
        return inputs, following(inputs)
    targets = torch.from_numpy(examples.targets).to(device)
    return inputs, _of_texts(targets, inputs) if isinstance(examples.inputs, Tokens) else targets


def sent(x: Tensor, device: torch.device) -> Tensor:
    """The same on a device, without waiting for it: a GPU takes it from pinned memory when its turn comes."""
    return (x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x).to(device, non_blocking=True)


def _placed(inputs: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Integers stay integers: in bfloat16 most token ids would become others."""
    inputs = sent(inputs, device)
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


class Rows:
    """Any rows of examples as a `batch`, with little to do in every step.

    They lie on the device where they take at most an eighth of its memory; what is asked for is then gathered there.
    On a CPU what is gathered lies in memory that stays: the next call writes over it. (Memory of this size goes back to
    the system whenever it is freed, and to clear it anew takes as long as the copy.)

    Attributes:
        lengths: (N,) int64, tokens of every text; None: they are no texts.
    """

    def __init__(self, examples: Examples, device: torch.device, dtype: torch.dtype) -> None:
        texts = examples.inputs if isinstance(examples.inputs, Tokens) else None
        arrays = [texts.ids, texts.offsets, texts.types] if texts else [examples.inputs]
        tensors = [None if x is None else as_tensor(x) for x in (*arrays, examples.targets)]
        home = device if _fits(tensors, device) else torch.device("cpu")
        *self._inputs, self._targets = (None if x is None else x.to(home) for x in tensors)
        self._home, self._device, self._dtype = home, device, dtype
        self._memory: Tensor | None = None
        self._pad = texts.pad if texts else 0
        self.lengths = torch.from_numpy(texts.lengths) if texts else None

    def __call__(self, index: Tensor) -> Batch:
        """The batch of rows ``index`` (k,) int64, which is on the CPU."""
        at = sent(index, self._home)
        inputs = self._gathered(at) if self.lengths is None else self._padded(at, int(self.lengths[index].max()))
        inputs = _placed(inputs, self._device, self._dtype)
        if self._targets is None:
            return inputs, following(inputs)
        targets = sent(self._targets.index_select(0, at), self._device)
        return inputs, _of_texts(targets, inputs) if self.lengths is not None else targets

    def _gathered(self, at: Tensor) -> Tensor:
        (rows,) = self._inputs
        assert rows is not None
        if self._device.type != "cpu":
            return rows.index_select(0, at)
        if self._memory is None or len(self._memory) < len(at):
            self._memory = rows.new_empty(len(at), *rows.shape[1:])
        return torch.index_select(rows, 0, at, out=self._memory[: len(at)])

    def _padded(self, at: Tensor, longest: int) -> Tensor:
        """As `Tokens.padded`, where the tokens lie."""
        ids, offsets, types = self._inputs
        assert ids is not None and offsets is not None
        first = offsets.index_select(0, at)[:, None]
        place = first + torch.arange(longest, device=self._home)
        real = place < offsets.index_select(0, at + 1)[:, None]
        place = torch.where(real, place, first).flatten()

        def filled(values: Tensor, fill: int) -> Tensor:
            return values.index_select(0, place).view(real.shape).long().masked_fill_(~real, fill)

        columns = [filled(ids, self._pad), real.long()]
        return torch.stack(columns if types is None else [*columns, filled(types, 0)], 1)


def _fits(tensors: list[Tensor | None], device: torch.device) -> bool:
    bytes_ = sum(0 if x is None else x.nbytes for x in tensors)
    return device.type == "cuda" and bytes_ <= torch.cuda.get_device_properties(device).total_memory // _SHARE


def _of_texts(targets: Tensor, inputs: Tensor) -> Tensor:
    """Labels of tokens, (rows, any), as far as the longest text; other targets as they are."""
    return targets[:, : inputs.shape[2]] if targets.ndim == 2 and not targets.is_floating_point() else targets


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
