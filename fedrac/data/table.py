"""Tables of numbers: CSV, Parquet or JSON lines."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data.columns import Columns, named_files, read_named
from fedrac.data.examples import Data, Examples
from fedrac.data.split import Index, split
from fedrac.data.standard import AGREED, Scale
from fedrac.data.store import stored
from fedrac.data.tasks import named
from fedrac.loading.told import told

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)


def table(
    path: str | None = None,
    target: str | Sequence[str] | None = None,
    task: str = "classification",
    features: Sequence[str] | None = None,
    group: str | None = None,
    test_path: str | None = None,
    test_fraction: float = 0.2,
    standardize: bool | str | Mapping[str, Sequence[float]] = True,
    split_seed: int = 0,
    classes: Sequence[str | int] | None = None,
    partial: bool = False,
) -> Data:
    """Examples from the rows of a table, inputs (N, features).

    Args:
        path: a .csv, .tsv, .parquet or .jsonl file; the text formats may be compressed (.gz, .bz2, .xz,
            .zip). With ``partial`` also a folder with ``train.csv`` or its like, ``test.csv``, or both.
        target: the column to predict. Its values, sorted, are the classes 0, 1, ...; for a regression,
            numbers, and a list of columns for several outputs; for a multi_label a list of columns of 0 and 1.
        task: classification, regression, multi_label, or one of your own with a label or values for each row.
        features: the input columns, numeric; where None, all columns but the target and the group.
        group: the column that names the natural client of a row.
        test_path: another table for testing; where None, ``test_fraction`` of the rows are (of every class
            alike).
        standardize: shift and scale each feature to mean 0, deviation 1 over the training rows; or by lists ``mean``
            and ``deviation``. ``agreed``: by those that all parties agree on before the run; until then not at all.
        split_seed: names the split; not the run's seed.
        classes: the values of ``target``, to be numbered 0, 1, ... in this order; where None, those that occur.
        partial: a party's share of a federation. All rows of ``path`` are for training; classes may be missing, so
            the list must be given, and so must ``features``, which keep their scale.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a column that is not there, a cell that is no number, a missing or unknown label.
    """
    if path is None or target is None:
        raise told(
            ValueError(
                f"data.path={path} data.target={target}: set both, e.g. data.path=/data/table.csv data.target=label"
            )
        )
    if isinstance(standardize, str) and not (partial and standardize == AGREED):
        raise told(
            ValueError(
                f"data.standardize={standardize}: parties with rows of their own agree, others say true or false"
            )
        )
    labelled = _has_labels(task)
    if partial and (standardize is True or not features or (labelled and classes is None)):
        wrong = (
            "all parties of a federation must read their columns alike: set data.standardize=false or agreed, "
            "data.features to the list of columns and, for a classification, data.classes to the list of all labels, "
            "e.g. [no,yes]"
        )
        raise told(ValueError(wrong))
    files = named_files(path, test_path, partial)
    targets = [target] if isinstance(target, str) else list(target)
    _check_lists(features, targets, classes)

    def build() -> tuple[Examples, Examples, int | Sequence[str]]:
        columns = read_named(files)
        train, test = columns.parts if partial else _rows(columns, targets[0], task, test_fraction, split_seed)
        y, outputs = _targets(columns, targets, task, train, classes)
        if task == "classification" and len(train) and len(np.unique(y[train])) < 2:
            _one_class(targets[0], partial)
        inputs = features or [name for name in columns.frame.columns if name not in (*targets, group)]
        x = columns.numbers(list(inputs))
        if isinstance(standardize, Mapping):
            x = Scale.of(standardize, x.shape[1]).apply(x)
        elif standardize is True:
            spread = x[train].std(axis=0)
            x = (x - x[train].mean(axis=0)) / np.where(spread > 0, spread, 1)
        clients = None if group is None else np.unique(columns.plain(group), return_inverse=True)[1]
        examples = Examples(x.astype(np.float32), y, clients)
        return examples.take(train), examples.take(test), outputs

    arguments: dict[str, Any] = {"target": targets, "task": task, "features": features, "group": group}
    arguments |= {"test_fraction": test_fraction, "standardize": standardize, "split_seed": split_seed}
    arguments |= {"classes": classes, "parts": list(files) if partial else None}
    return stored("table.table", arguments, task, build, list(files.values()))


def _check_lists(features: Sequence[str] | None, targets: Sequence[str], classes: Sequence[str | int] | None) -> None:
    """
    Raises:
        ValueError: something is named twice, a target is a feature, too, or there are fewer than two classes.
    """
    for key, names in (("features", features or ()), ("target", targets), ("classes", classes or ())):
        if twice := [name for name, count in Counter(map(str, names)).items() if count > 1]:
            raise told(ValueError(f"data.{key} names {twice[0]!r} twice: once is enough"))
    if both := set(features or ()) & set(targets):
        raise told(
            ValueError(f"data.features has the target {min(both)!r}: a model cannot learn from what it is to predict")
        )
    if classes is not None and len(classes) < 2:
        raise told(ValueError(f"data.classes={list(classes)} must name at least two classes"))


def _one_class(target: str, partial: bool) -> None:
    """A party of a federation may have examples of one class; alone there is nothing to learn.

    Raises:
        ValueError: it is no party.
    """
    said = f"column {target!r} has the same label in all training rows"
    if not partial:
        raise ValueError(f"{said}: is data.target right? A classification needs two classes")
    log.warning("%s: others have to bring the rest", said)


def parts(
    path: str,
    target: str | Sequence[str],
    task: str = "classification",
    test_path: str | None = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    **others: Any,
) -> "tuple[DataFrame, DataFrame]":
    """The rows, as they are in the files, that `table` trains on and tests on, in its order."""
    columns = read_named(named_files(path, test_path))
    first = target if isinstance(target, str) else target[0]
    train, test = _rows(columns, first, task, test_fraction, split_seed)
    return columns.frame.iloc[train], columns.frame.iloc[test]


def _has_labels(task: str) -> bool:
    """Whether every row has one label; otherwise it has values."""
    form = named(task)
    if (form.dimensions, form.dtype) not in ((1, "int64"), (2, "float32")):
        raise told(ValueError(f"data.task={task}: a row of a table has one label, or values"))
    return form.dimensions == 1


def _rows(columns: Columns, target: str, task: str, test_fraction: float, split_seed: int) -> tuple[Index, Index]:
    if len(columns.files) > 1:
        return columns.parts
    strata = columns.plain(target) if _has_labels(task) else np.zeros(len(columns.frame))
    return split(strata, test_fraction, split_seed)


def _targets(
    columns: Columns, targets: list[str], task: str, train: Index, classes: Sequence[str | int] | None
) -> tuple[NDArray[Any], int | Sequence[str]]:
    if not _has_labels(task):
        return values_of(columns, targets, task)
    if len(targets) > 1:
        raise told(ValueError(f"data.target={targets}: a classification has one target column"))
    if classes is not None:
        return columns.classes(targets[0], classes), [str(name) for name in classes]
    return columns.labels(targets[0], train)


def values_of(columns: Columns, names: Sequence[str], task: str) -> tuple[NDArray[np.float32], int | Sequence[str]]:
    """The targets (N, k) in the columns ``names``, and what they are called; one alone is not.

    Raises:
        ValueError: a cell that is no number, or not one of the task's.
    """
    values = columns.numbers(names).astype(np.float32)
    named(task).check_targets(values, f"the columns {', '.join(names)}")
    return values, 1 if len(names) == 1 else list(names)
