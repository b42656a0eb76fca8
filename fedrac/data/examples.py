"""What a loader returns: examples in arrays, normally maps of files on disk."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Task = Literal["classification", "regression"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples, one a row.

    Attributes:
        inputs: (N, ...) float32, C-contiguous; normally a read-only memory map.
        targets: (N,) int64 labels, or (N, k) float32 values of a regression.
        groups: (N,) int64, the natural client of each example, where the data have one.

    Raises:
        ValueError: another dtype or layout, or lengths that differ.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[Any]
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.inputs.dtype != np.float32 or not self.inputs.flags.c_contiguous:
            raise ValueError(f"inputs are {self.inputs.dtype}: make them C-contiguous float32")
        kinds = {1: np.dtype(np.int64), 2: np.dtype(np.float32)}
        if self.targets.dtype != kinds.get(self.targets.ndim):
            raise ValueError(
                f"targets are {self.targets.dtype} of shape {self.targets.shape}: make them (N,) int64 "
                "labels or (N, k) float32 values"
            )
        lengths = [len(part) for part in (self.inputs, self.targets, self.groups) if part is not None]
        if len(set(lengths)) > 1:
            raise ValueError(f"inputs, targets and groups have {lengths} rows: one row an example in each")

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: NDArray[Any]) -> "Examples":
        """The examples that ``index`` (k,) names, in its order; copies, writable, in memory."""
        groups = None if self.groups is None else self.groups[index]
        return Examples(self.inputs[index], self.targets[index], groups)


@dataclass(frozen=True, eq=False)
class Data:
    """The examples of an experiment.

    Attributes:
        train, test: what clients train on, and what the model is tested on.
        task: says what the targets are and which loss goes with them.
        outputs: number of classes, or of values that a regression predicts.
        key: digest that identifies these data on this machine; part of the partition's cache key.

    Raises:
        ValueError: a part without examples, or parts that do not fit each other or the task.
    """

    train: Examples
    test: Examples
    task: Task
    outputs: int
    key: str

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ValueError(f"task {self.task!r} is unknown: choose one of {', '.join(get_args(Task))}")
        for name, part in (("train", self.train), ("test", self.test)):
            if len(part) == 0:
                raise ValueError(f"the {name} part has no examples: check the classes and data.test_fraction")
            if (self.task == "regression") != (part.targets.ndim == 2):
                raise ValueError(
                    f"{self.task} with {name} targets of shape {part.targets.shape}: (N,) labels are for a "
                    "classification, (N, k) values for a regression"
                )
        if self.train.inputs.shape[1:] != self.test.inputs.shape[1:]:
            raise ValueError(
                f"a training input has shape {self.train.inputs.shape[1:]}, a test input "
                f"{self.test.inputs.shape[1:]}: prepare both in the same way"
            )
