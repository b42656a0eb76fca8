"""A user's own data, in the forms that people have them, into :class:`Data`."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data import tasks
from fedrac.data.examples import Data, Examples
from fedrac.data.tasks import Task

_PART = (
    "a pair (x, y) of arrays or tensors (a third one, (x, y, groups), names the natural client of each example), a "
    "map-style dataset of (x, y), or a pandas DataFrame whose last column is the target"
)
_FORMS = f"return a fedrac.data.Data, a pair ((x, y), (x_test, y_test)), or a pair (train, test), each {_PART}"
Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[np.int64] | None]  # inputs, targets, groups
_NOT_DATASETS = (Mapping, str, np.ndarray)


def coerce(result: Any, task: str | Task | None = None) -> Data:
    """What a data function returned, as :class:`Data`.

    Args:
        result: what it returned.
        task: what the targets mean; None: as `task_of` says.

    Raises:
        ValueError: another form, targets that may mean two things, values that are not finite or not the task's, or
            parts that do not fit together.
    """
    if isinstance(result, Data):
        return result if task is None else replace(result, task=tasks.named(task))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError(f"the data function returned {_describe(result)}: {_FORMS}")
    names = ("train", "test")
    parts = [arrays(part, name) for part, name in zip(result, names, strict=True)]
    meant = tasks.named(task or task_of({name: part[1] for name, part in zip(names, parts, strict=True)}))
    train, test = (
        (inputs, targets_of(targets, name, meant), groups)
        for (inputs, targets, groups), name in zip(parts, names, strict=True)
    )
    return joined(train, test, _digest(*train, *test), meant)


def joined(train: Arrays, test: Arrays, key: str, task: Task) -> Data:
    """The data of which these are the parts, with the targets of `targets_of`; ``key`` as `Data` has it."""
    return Data(Examples(*train), Examples(*test), task, _outputs(train[1], test[1]), key)


def arrays(part: Any, name: str, target: str | Sequence[str] | None = None) -> Arrays:
    """One part of the data: inputs (N, ...), targets (N, ...) as they are, groups (N,) int64 or None.

    Integer inputs stay integers (int64), which may be names of something, as token ids are; all others, and those of a
    DataFrame, become float32.

    Args:
        part: a pair or triple of arrays, a map-style dataset, or a DataFrame.
        name: what the part is called in errors.
        target: the column of a DataFrame that is predicted, or several; None: the last one.

    Raises:
        ValueError: another form, or values that are not finite.
    """
    if isinstance(part, tuple | list) and len(part) in (2, 3):
        columns = [_array(column) for column in part]
    elif _is_frame(part):
        columns = _of_frame(part, name, target)
    else:
        columns = _columns(part)
    inputs, targets, *groups = columns
    if targets.dtype.kind == "f":
        _check_finite(targets, f"{name} targets")
    return _inputs(inputs, name), targets, np.asarray(groups[0], np.int64) if groups else None


def task_of(parts: Mapping[str, NDArray[Any]]) -> str:
    """The name of the task that targets are for: integers (N,) make a classification, floating-point numbers (N,) or
    (N, k) a regression, integers (N, k) with one above 1 a tagging, and booleans (N, k) a multi_label.

    Args:
        parts: those for training and for testing, as `arrays` gives them, by what they are called in errors.

    Raises:
        ValueError: they may be for two (0 and 1 as floating-point numbers, or as integers (N, k)), or for none, or
            differ.
    """
    filled = {name: part for name, part in parts.items() if part.size} or dict(parts)
    name, targets = next(iter(filled.items()))
    kinds = {part.dtype.kind == "f" for part in filled.values()}
    if len(kinds) > 1:
        other = next(key for key, part in filled.items() if (part.dtype.kind == "f") != (targets.dtype.kind == "f"))
        raise ValueError(
            f"a {'regression' if targets.dtype.kind == 'f' else 'classification'} with {other} targets of shape "
            f"{filled[other].shape}, {filled[other].dtype}, but {targets.dtype} for {name}: make both alike, or set "
            "data.task"
        )
    several = targets.ndim > 1 and targets.size != len(targets)
    yes_or_no = all(part.dtype.kind in "biuf" and np.isin(part, (0, 1)).all() for part in filled.values())
    told = f"{name} targets are {targets.dtype} of shape {targets.shape}"
    if targets.dtype.kind == "f" and targets.ndim <= 2:
        if yes_or_no and len(np.unique(targets)) > 1:
            other = "multi_label" if several else "classification (the targets as integers) or multi_label (one output)"
            raise ValueError(
                f"{told}, all 0 or 1: say what they mean: data.task={other}, or data.task=regression for their squared "
                "error"
            )
        return "regression"
    if targets.dtype.kind in "biu" and not several:
        return "classification"
    if targets.dtype.kind in "biu" and targets.ndim == 2:
        if yes_or_no and targets.dtype.kind != "b":
            raise ValueError(
                f"{told}, all 0 or 1: say what they mean: data.task=multi_label for labels of which an example may "
                "have several, or data.task=tagging for a label of each token"
            )
        return "multi_label" if targets.dtype.kind == "b" else "tagging"
    raise ValueError(
        f"{told}: make them (N,) integer labels or (N, k) floats, or set data.task to one of {', '.join(tasks.NAMES)}, "
        "or to a task of your own"
    )


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a tensor, perhaps on a GPU or part of a graph
        values = values.detach().cpu().numpy()
    return np.atleast_1d(np.asarray(values))


def _is_frame(part: Any) -> bool:
    pandas = sys.modules.get("pandas")  # who has a frame has imported it
    return pandas is not None and isinstance(part, pandas.DataFrame)


def _of_frame(frame: Any, name: str, target: str | Sequence[str] | None) -> list[NDArray[Any]]:
    """The inputs (N, features) and the target of a DataFrame."""
    wanted = frame.columns[-1] if target is None else target if isinstance(target, str) else list(target)
    if missing := [c for c in ([wanted] if isinstance(wanted, str) else wanted) if c not in frame.columns]:
        raise ValueError(f"{name} has no column {missing[0]!r}: its columns are {', '.join(map(str, frame.columns))}")
    inputs = frame.drop(columns=wanted)
    if words := [column for column, kind in inputs.dtypes.items() if kind.kind not in "biuf"]:
        raise ValueError(f"column {words[0]!r} of {name} is {inputs[words[0]].dtype}: make it numbers, or drop it")
    return [inputs.to_numpy(np.float32, na_value=np.nan), frame[wanted].to_numpy()]  # a table's integers are numbers


def _columns(dataset: Any) -> list[NDArray[Any]]:
    """The inputs and targets of a map-style dataset, stacked."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or isinstance(dataset, _NOT_DATASETS):
        raise ValueError(f"a part of the data is {_describe(dataset)}: make it {_PART}")
    rows = [dataset[i] for i in range(len(dataset))]
    for i, row in enumerate(rows):
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise ValueError(f"item {i} of a dataset is {_describe(row)}: make every item a pair (x, y)")
    inputs, targets = ([_array(row[column]) for row in rows] for column in (0, 1))
    if len({x.shape for x in inputs}) > 1 or len({y.shape for y in targets}) > 1:
        raise ValueError("the items of a dataset differ in shape: bring them to one shape in its transform")
    return [np.stack(inputs), np.stack(targets)] if rows else [np.empty((0, 1)), np.empty(0, int)]


def _inputs(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} inputs are {values.dtype}: make them numbers")
    rows = values.reshape(len(values), 1) if values.ndim == 1 else values
    if rows.dtype.kind in "iu":  # they may be names of something, which no float may change
        return np.ascontiguousarray(rows, dtype=np.int64)
    inputs = np.ascontiguousarray(rows, dtype=np.float32)
    _check_finite(inputs, f"{name} inputs")
    return inputs


def targets_of(values: NDArray[Any], name: str, task: Task) -> NDArray[Any]:
    """Targets in the form that the task's have: (N,) and (N, 1) are taken for one another, integers for values.

    Raises:
        ValueError: they have another form, or a value that means nothing; ``name`` is the part's.
    """
    given, kinds = values.shape, {"int64": "biu", "float32": "biuf"}[task.dtype]
    if task.dimensions == 1 and values.size == len(values):
        values = values.reshape(-1)
    elif task.dimensions == 2 and values.ndim == 1:
        values = values.reshape(-1, 1)
    if (values.size and values.dtype.kind not in kinds) or values.ndim != task.dimensions:
        raise ValueError(f"{name} targets are {values.dtype} of shape {given}: make them {task.form} of a {task.name}")
    targets = np.ascontiguousarray(values, dtype=task.dtype)
    task.check_targets(targets, f"{name} targets")
    return targets


def _check_finite(values: NDArray[Any], what: str) -> None:
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        raise ValueError(f"{what} are not finite in row {int(bad.argmax())} (and {int(bad.sum())} in all): clean them")


def _outputs(train: NDArray[Any], test: NDArray[Any]) -> int:
    if train.dtype.kind == "f":
        return int(train.shape[1])
    return int(max(train.max(initial=0), test.max(initial=0))) + 1


def _digest(*arrays: NDArray[Any] | None) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        if array is not None:
            sha.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


def _describe(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
