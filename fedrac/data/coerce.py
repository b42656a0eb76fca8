"""A user's own data, in the forms that people have them, into :class:`Data`."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data.examples import Data, Examples, Task

_PART = (
    "a pair (x, y) of arrays or tensors (a third one, (x, y, groups), names the natural client of each example), a "
    "map-style dataset of (x, y), or a pandas DataFrame whose last column is the target"
)
_FORMS = f"return a fedrac.data.Data, a pair ((x, y), (x_test, y_test)), or a pair (train, test), each {_PART}"
Arrays = tuple[NDArray[np.float32], NDArray[Any], NDArray[np.int64] | None]  # inputs, targets, groups
_NOT_DATASETS = (Mapping, str, np.ndarray)


def coerce(result: Any) -> Data:
    """What a data function returned, as :class:`Data`.

    Integer targets (N,) make a classification with labels from 0, floating-point ones (N,) or (N, k) a
    regression.

    Raises:
        ValueError: another form, values that are not finite, labels below 0, or parts that do not fit
            together.
    """
    if isinstance(result, Data):
        return result
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError(f"the data function returned {_describe(result)}: {_FORMS}")
    train, test = (arrays(part, name) for part, name in zip(result, ("train", "test"), strict=True))
    return joined(train, test, _digest(*train, *test))


def joined(train: Arrays, test: Arrays, key: str) -> Data:
    """The data of which these are the parts; ``key`` as `Data` has it."""
    task: Task = "classification" if train[1].ndim == 1 else "regression"
    return Data(Examples(*train), Examples(*test), task, _outputs(train[1], test[1]), key)


def arrays(part: Any, name: str, target: str | Sequence[str] | None = None) -> Arrays:
    """One part of the data: inputs (N, ...) float32, targets (N,) int64 or (N, k) float32, groups (N,) int64 or None.

    Args:
        part: a pair or triple of arrays, a map-style dataset, or a DataFrame.
        name: what the part is called in errors.
        target: the column of a DataFrame that is predicted, or several of a regression; None: the last one.

    Raises:
        ValueError: another form, values that are not finite, or labels below 0.
    """
    if isinstance(part, tuple | list) and len(part) in (2, 3):
        columns = [_array(column) for column in part]
    elif _is_frame(part):
        columns = _of_frame(part, name, target)
    else:
        columns = _columns(part)
    inputs, targets, *groups = columns
    return _inputs(inputs, name), _targets(targets, name), np.asarray(groups[0], np.int64) if groups else None


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
    return [inputs.to_numpy(np.float32, na_value=np.nan), frame[wanted].to_numpy()]


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


def _inputs(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} inputs are {values.dtype}: make them numbers")
    rows = values.reshape(len(values), 1) if values.ndim == 1 else values
    inputs: NDArray[np.float32] = np.ascontiguousarray(rows, dtype=np.float32)
    _check_finite(inputs, f"{name} inputs")
    return inputs


def _targets(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.dtype.kind == "f" and values.ndim in (1, 2):
        targets = np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.float32)
        _check_finite(targets, f"{name} targets")
        return targets
    if values.dtype.kind not in "biu" or values.size != len(values):
        raise ValueError(
            f"{name} targets are {values.dtype} of shape {values.shape}: make them (N,) integer labels or (N, k) floats"
        )
    if values.size and values.min() < 0:
        raise ValueError(f"{name} targets hold the label {values.min()}: number the classes 0, 1, 2, ...")
    return np.ascontiguousarray(values.reshape(-1), dtype=np.int64)


def _check_finite(values: NDArray[np.float32], what: str) -> None:
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        raise ValueError(f"{what} are not finite in row {int(bad.argmax())} (and {int(bad.sum())} in all): clean them")


def _outputs(train: NDArray[Any], test: NDArray[Any]) -> int:
    if train.ndim == 2:
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
