"""Columns of a table as arrays, or an error that names the first bad cell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_COMPRESSED = (".gz", ".bz2", ".xz", ".zip")


@dataclass(frozen=True, eq=False)
class Columns:
    """The rows of one or two files, one after another.

    Attributes:
        frame: all rows.
        files: where they come from.
        first: number of rows of the first file.
    """

    frame: "DataFrame"
    files: Sequence[Path]
    first: int

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """Numeric columns, (N, k) float64.

        Raises:
            ValueError: no columns, one that is not there, or a cell that is no finite number.
        """
        if not columns:
            raise ValueError("the table has no feature columns: set data.features to the columns to learn from")
        return np.stack([self._number(column) for column in columns], axis=1)

    def labels(self, column: str, train: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        """Class ids (N,) and their number: the sorted values of the rows ``train`` are classes 0, 1, ...

        Raises:
            ValueError: no such column, a missing label, or one that no row of ``train`` has.
        """
        values = self.plain(column)
        classes = np.unique(values[train])
        ids = np.searchsorted(classes, values).clip(max=len(classes) - 1)
        unknown = classes[ids] != values
        self._check(unknown, column, "a label that no training row has: drop the row, or train on such rows too")
        return ids.astype(np.int64), len(classes)

    def plain(self, column: str) -> NDArray[Any]:
        """The values (N,) of a column without gaps: numbers where all are numbers, else strings.

        Raises:
            ValueError: no such column, or a missing value.
        """
        series = self._column(column)
        self._check(series.isna().to_numpy(), column, "nothing: fill the cell or drop the row")
        return np.asarray(series if series.dtype.kind in "biuf" else series.astype(str).to_numpy(dtype=str))

    def _number(self, column: str) -> NDArray[np.float64]:
        import pandas

        series = self._column(column)
        if series.dtype.kind in "mM":  # dates would become nanoseconds
            raise ValueError(f"column {column!r} holds dates: make it a number, or leave it out of data.features")
        parsed = pandas.to_numeric(series, errors="coerce")
        values: NDArray[np.float64] = parsed.to_numpy(dtype=np.float64, na_value=np.nan)
        mend = "no number: clean the cell, or leave the column out of data.features"
        self._check(~np.isfinite(values), column, mend)
        return values

    def _column(self, name: str) -> "Series[Any]":
        if name not in self.frame.columns:
            raise ValueError(
                f"no column {name!r} in {self.files[0]}: its columns are {', '.join(map(str, self.frame.columns))}"
            )
        return self.frame[name]

    def _check(self, bad: NDArray[np.bool_], column: str, what: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            file, number = (self.files[0], row + 1) if row < self.first else (self.files[-1], row - self.first + 1)
            cell = self.frame[column].iloc[[row]].tolist()[0]
            raise ValueError(f"column {column!r} of {file}, data row {number}, holds {cell!r}, {what}")


def read(files: Sequence[Path]) -> Columns:
    """The rows of one or two files.

    Raises:
        ValueError: a format that is not known, or a file that is not of its format or has no rows.
    """
    import pandas

    frames = [_frame(file) for file in files]
    return Columns(pandas.concat(frames, ignore_index=True), files, len(frames[0]))


def _frame(file: Path) -> "DataFrame":
    reader = _reader(file)
    try:
        frame = reader(file)
    except (ValueError, OSError, EOFError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise ValueError(f"{file} cannot be read ({error}): check that its content is what its name says") from error
    if not len(frame):
        raise ValueError(f"{file} has no rows: give a table with at least one")
    return frame


def _reader(file: Path) -> "Callable[[Path], DataFrame]":
    import pandas

    readers: dict[str, Callable[[Path], DataFrame]] = {
        ".csv": partial(pandas.read_csv, low_memory=False),
        ".tsv": partial(pandas.read_csv, sep="\t", low_memory=False),
        ".parquet": pandas.read_parquet,
        ".jsonl": partial(pandas.read_json, lines=True, dtype=False),
    }
    name = file.with_suffix("") if file.suffix in _COMPRESSED else file
    if name.suffix not in readers:
        raise ValueError(
            f"{file} is of no known format: use {', '.join(readers)}; text also with {', '.join(_COMPRESSED)}"
        )
    return readers[name.suffix]
