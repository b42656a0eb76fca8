"""A model with data that fit it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrac.data import tasks
from fedrac.data.batch import following
from fedrac.data.examples import Examples
from fedrac.data.tokens import join

SIZES = (3, 5, 8)  # examples of each client
ROWS = sum(SIZES)
CLASSES, WORDS, LENGTH = 3, 23, 7
COMPUTED = (("low rank", "its weight is computed from other parameters"),)  # a parametrization has no low rank


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size: int = 8, channels: int = 3) -> Tensor:
    return torch.randn(ROWS, channels, size, size, generator=_generator(0), dtype=torch.float64)


def series(length: int = 5, width: int = 6) -> Tensor:
    return torch.randn(ROWS, length, width, generator=_generator(0), dtype=torch.float64)


def vectors(width: int = 6) -> Tensor:
    return series(1, width)[:, 0]


def ids(length: int = 5) -> Tensor:
    return torch.randint(1, WORDS, (ROWS, length), generator=_generator(0))


def texts(pairs: bool = False, length: int = LENGTH) -> Tensor:
    """Texts (rows, 2, length) of 3 to ``length`` tokens, padded with 0; (rows, 3, length) with token types."""
    lengths = torch.randint(3, length + 1, (ROWS, 1), generator=_generator(0))
    mask = (torch.arange(length) < lengths).long()
    words = torch.randint(3, WORDS, (ROWS, length), generator=_generator(1)) * mask
    types = (torch.arange(length) >= lengths // 2).long()
    return torch.stack([words, mask, types] if pairs else [words, mask], 1)


@dataclass(frozen=True)
class Architecture:
    """A model of one kind, tiny.

    Attributes:
        name: as the table has it.
        family: the part of the table.
        make: the model.
        inputs: (rows, ...), one row an example; made anew for each use.
        task: what it learns.
        refused: a pattern of the message with which it is refused, by mode (``low rank``, ``full``); none: it is exact.
        quick: takes a fraction of a second.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    task: str = "classification"
    refused: tuple[tuple[str, str], ...] = ()
    quick: bool = True

    def model(self) -> nn.Module:
        """In float64, in training mode; no parameter is 0 or 1 throughout, and none differs from run to run."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = self.make().double().train()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of some rows; texts are padded to the longest of them only."""
        inputs, targets = self.inputs()[index], None
        if self.is_text:
            inputs = inputs[:, :, : int(inputs[:, 1].sum(1).max())]
            targets = following(inputs) if self.task == "causal_lm" else None
        return inputs, self._targets(index, inputs) if targets is None else targets

    @property
    def is_text(self) -> bool:
        inputs = self.inputs()
        return inputs.ndim == 3 and not inputs.is_floating_point()

    @property
    def what(self) -> tasks.Task:
        return tasks.named(self.task)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.what.loss(outputs, targets)

    def examples(self) -> Examples:
        """All of them as a loader would return them."""
        inputs, targets = self.take(torch.arange(ROWS))
        array = None if self.what.dimensions == 0 else targets.numpy().astype(self.what.dtype)
        if not self.is_text:
            return Examples(inputs.numpy().astype("float32" if inputs.is_floating_point() else "int64"), array)
        lengths = inputs[:, 1].sum(1).tolist()
        rows = [[row[:n].tolist() for row, n in zip(part, lengths, strict=True)] for part in inputs.unbind(1)]
        return Examples(join(rows[0], 0, *rows[2:]), array)

    def _targets(self, index: Tensor, inputs: Tensor) -> Tensor:
        if self.task == "tagging":
            length = inputs[0, 0].numel() if self.is_text or inputs.ndim == 4 else inputs.shape[1]
            labels = torch.randint(CLASSES, (ROWS, 64), generator=_generator(2))[index, :length]
            return labels.masked_fill(inputs[:, 1] == 0, tasks.IGNORED) if self.is_text else labels
        if self.task == "multi_label":
            return torch.randint(2, (ROWS, CLASSES), generator=_generator(2))[index].double()
        if self.task == "regression":
            return torch.randn(ROWS, CLASSES, generator=_generator(2), dtype=torch.float64)[index]
        return torch.randint(CLASSES, (ROWS,), generator=_generator(2))[index]
