"""What a loader returns: examples in arrays, normally maps of files on disk."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedrac.data.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

Task = Literal["classification", "regression", "causal_lm"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples, one a row.

    Attributes:
        inputs: (N, ...) float32, C-contiguous, normally a read-only memory map; or N tokenized texts.
        targets: (N,) int64 labels, or (N, k) float32 values of a regression; None where the inputs are their own
            targets (``causal_lm``: the next token).
        groups: (N,) int64, the natural client of each example, where the data have one.

    Raises:
        ValueError: another dtype or layout, or lengths that differ.
    """

    inputs: NDArray[np.float32] | Tokens
    targets: NDArray[Any] | None
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tokens) and (
            self.inputs.dtype != np.float32 or not self.inputs.flags.c_contiguous
        ):
            raise ValueError(f"inputs are {self.inputs.dtype}: make them C-contiguous float32")
        kinds = {1: np.dtype(np.int64), 2: np.dtype(np.float32)}
        if self.targets is not None and self.targets.dtype != kinds.get(self.targets.ndim):
            raise ValueError(
                f"targets are {self.targets.dtype} of shape {self.targets.shape}: make them (N,) int64 "
                "labels or (N, k) float32 values"
            )
        lengths = [len(part) for part in (self.inputs, self.targets, self.groups) if part is not None]
        if len(set(lengths)) > 1:
            raise ValueError(f"inputs, targets and groups have {lengths} rows: one row an example in each")

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: NDArray[Any]) -> "Examples":
        """The examples that ``index`` (k,) names, in its order; copies, writable, in memory."""
        inputs = self.inputs[index] if isinstance(self.inputs, Tokens) else _gather(self.inputs, index)
        targets, groups = (None if part is None else part[index] for part in (self.targets, self.groups))
        return Examples(inputs, targets, groups)


def as_tensor(array: NDArray[Any]) -> "Tensor":
    """``array`` as a tensor that shares its memory, to be read only: it may be a map of a file."""
    import torch  # it takes longer to import than all the rest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of memory maps that cannot be written
        return torch.from_numpy(array)


def _gather(rows: NDArray[np.float32], index: NDArray[Any]) -> NDArray[np.float32]:
    """``rows[index]``, by all threads."""
    gathered: NDArray[np.float32] = as_tensor(rows).index_select(0, as_tensor(index.astype(np.int64))).numpy()
    return gathered


@dataclass(frozen=True, eq=False)
class Data:
    """The examples of an experiment.

    Attributes:
        train, test: what clients train on, and what the model is tested on; one party's share of a federation may
            have only one of them.
        task: says what the targets are and which loss goes with them.
        outputs: number of classes, of values that a regression predicts, or of tokens of a language model.
        key: digest that identifies these data on this machine; part of the partition's cache key. Empty: these data
            are in this process alone, and nothing that follows from them is cached on disk.
        labels: what the classes are called, where they have names.
        groups_apart: the test part is of other groups than the training part.
        metrics: of the whole test part, besides those that are means over examples; see `fedrac.data.metrics`.

    Raises:
        ValueError: no examples at all, or parts that do not fit each other or the task.
    """

    train: Examples
    test: Examples
    task: Task
    outputs: int
    key: str
    labels: Sequence[str] = ()
    metrics: Sequence[str] = ()
    groups_apart: bool = False

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ValueError(f"task {self.task!r} is unknown: choose one of {', '.join(get_args(Task))}")
        self.check_filled("train" if len(self.train) or not len(self.test) else "test")
        for name, part in (("train", self.train), ("test", self.test)):
            shape = None if part.targets is None else part.targets.shape
            if {"classification": 1, "regression": 2, "causal_lm": 0}[self.task] != len(shape or ()):
                raise ValueError(
                    f"{self.task} with {name} targets of shape {shape}: (N,) labels are for a "
                    "classification, (N, k) values for a regression, none for a causal_lm"
                )
        first, other = (getattr(part.inputs, "shape", (0, "tokens"))[1:] for part in (self.train, self.test))
        if first != other:
            raise ValueError(f"a training input has shape {first}, a test input {other}: prepare both in the same way")
        if self.task == "causal_lm" and not isinstance(self.train.inputs, Tokens):
            raise ValueError("a causal_lm predicts the next token: its inputs are texts (data=text)")

    def check_filled(self, *parts: str) -> None:
        """Raises ValueError if one of these parts has no examples."""
        for name in parts:
            if len(getattr(self, name)) == 0:
                raise ValueError(f"the {name} part has no examples: check the classes and data.test_fraction")
