"""What a loader returns: examples in arrays, normally maps of files on disk."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data import tasks
from fedrac.data.tasks import Task
from fedrac.data.tokens import Tokens
from fedrac.loading.told import told

if TYPE_CHECKING:
    from torch import Tensor

_INPUTS, _TARGETS = (np.dtype(np.float32), np.dtype(np.int64)), (np.dtype(np.int64), np.dtype(np.float32))


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples, one a row.

    Attributes:
        inputs: (N, ...) float32, or int64 of what is a number's name (token ids): integers stay integers, whatever
            dtype the run computes in. C-contiguous, normally a read-only memory map; or N tokenized texts.
        targets: (N, ...) int64 labels, (N,) or one a token, or float32 values; None where the inputs are their own
            targets (``causal_lm``: the next token).
        groups: (N,) int64, the natural client of each example, where the data have one.

    Raises:
        ValueError: another dtype or layout, or lengths that differ.
    """

    inputs: NDArray[Any] | Tokens
    targets: NDArray[Any] | None
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tokens) and (
            self.inputs.dtype not in _INPUTS or not self.inputs.flags.c_contiguous
        ):
            raise ValueError(f"inputs are {self.inputs.dtype}: make them C-contiguous float32, or int64 (token ids)")
        if self.targets is not None and self.targets.dtype not in _TARGETS:
            raise ValueError(
                f"targets are {self.targets.dtype} of shape {self.targets.shape}: make them int64 labels or float32 "
                "values"
            )
        lengths = [len(part) for part in (self.inputs, self.targets, self.groups) if part is not None]
        if len(set(lengths)) > 1:
            raise ValueError(f"inputs, targets and groups have {lengths} rows: one row an example in each")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def kind(self) -> str:
        """What the inputs are: ``float32``, ``int64`` or ``texts``."""
        return "texts" if isinstance(self.inputs, Tokens) else str(self.inputs.dtype)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(N,), where every example has one label."""
        found = self.targets
        return found if found is not None and found.ndim == 1 and found.dtype == np.int64 else None

    def take(self, index: NDArray[Any]) -> "Examples":
        """The examples that ``index`` (k,) names, in its order; copies, writable, in memory."""
        inputs = self.inputs[index] if isinstance(self.inputs, Tokens) else _gather(self.inputs, index)
        targets, groups = (None if part is None else part[index] for part in (self.targets, self.groups))
        return Examples(inputs, targets, groups)


def as_tensor(array: NDArray[Any]) -> "Tensor":
    """``array`` (any shape) as a tensor that shares its memory, to be read only: it may be a map of a file."""
    import torch  # it takes longer to import than all the rest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of memory maps that cannot be written
        return torch.from_numpy(array)


def _gather(rows: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
    """``rows[index]``, by all threads."""
    gathered: NDArray[Any] = as_tensor(rows).index_select(0, as_tensor(index.astype(np.int64))).numpy()
    return gathered


@dataclass(frozen=True, eq=False)
class Data:
    """The examples of an experiment.

    Attributes:
        train, test: what clients train on, and what the model is tested on; one party's share of a federation may
            have only one of them.
        task: what the targets are, and the loss and the metrics that go with them. It may be given by its name.
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
        object.__setattr__(self, "task", tasks.named(self.task))
        self.check_filled("train" if len(self.train) or not len(self.test) else "test")
        for name, part in (("train", self.train), ("test", self.test)):
            if not self.task.fits(part.targets):
                found = "no" if part.targets is None else f"{part.targets.dtype}"
                shape = "" if part.targets is None else f" of shape {part.targets.shape}"
                raise ValueError(f"{self.task.name} with {found} {name} targets{shape}: it has {self.task.form}")
        first, other = (getattr(part.inputs, "shape", (0, "tokens"))[1:] for part in (self.train, self.test))
        if first != other:
            raise ValueError(f"a training input has shape {first}, a test input {other}: prepare both in the same way")
        kinds = {self.train.kind, self.test.kind}
        if len(kinds) > 1:
            raise ValueError(f"the training and the test inputs are {' and '.join(sorted(kinds))}: make both alike")
        if self.task.dimensions == 0 and kinds != {"texts"}:
            raise ValueError(f"a {self.task.name} predicts the next token: its inputs are texts (data=text)")

    def check_filled(self, *parts: str) -> None:
        """Raises ValueError if one of these parts has no examples."""
        for name in parts:
            if len(getattr(self, name)) == 0:
                raise told(ValueError(f"the {name} part has no examples: check the classes and data.test_fraction"))
