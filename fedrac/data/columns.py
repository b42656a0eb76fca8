"""Columns of a table as arrays, or an error that names the first bad cell."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data.header import named
from fedrac.loading.told import told

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_COMPRESSED = (".gz", ".bz2", ".xz", ".zip")


@dataclass(frozen=True, eq=False)
class Columns:
    """The rows of one or two files, one after another.

    Attributes:
        frame: all rows; its index counts them in the files.
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
            raise told(ValueError("the table has no feature columns: set data.features to the columns to learn from"))
        return np.stack([self._number(column) for column in columns], axis=1)

    def classes(self, column: str, classes: Sequence[Any]) -> NDArray[np.int64]:
        """The place (N,) of every value in the list ``classes``; compared as they are written.

        Raises:
            ValueError: no such column, a missing label, or one that the list does not have.
        """
        values, names = self.plain(column).astype(str), np.array([str(name) for name in classes])
        order = np.argsort(names)
        places: NDArray[np.int64] = order[np.searchsorted(names, values, sorter=order).clip(max=len(names) - 1)]
        what = f"which is not one of data.classes={list(classes)}"
        self._check(names[places] != values, column, what, tell_row=False)  # else who asks often reads the column
        return places

    def labels(self, column: str, train: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
        """Class ids (N,) and the names of the classes: the sorted values of the rows ``train`` are classes 0, 1, ...

        Raises:
            ValueError: no such column, a missing label, or one that no row of ``train`` has.
        """
        values = self.plain(column)
        classes = np.unique(values[train])
        ids = np.searchsorted(classes, values).clip(max=len(classes) - 1)
        unknown = classes[ids] != values
        self._check(unknown, column, "a label that no training row has: drop the row, or train on such rows too")
        return ids.astype(np.int64), [str(name) for name in classes]

    def plain(self, column: str) -> NDArray[Any]:
        """The values (N,) of a column without gaps: numbers where all are numbers, else strings.

        Raises:
            ValueError: no such column, or a missing value.
        """
        series = self._column(column)
        self._check(series.isna().to_numpy(), column, "nothing: fill the cell or drop the row")
        return np.asarray(series if series.dtype.kind in "biuf" else series.astype(str).to_numpy(dtype=str))

    def texts(self, column: str) -> list[str]:
        """The texts (N,) of a column.

        Raises:
            ValueError: no such column, or a missing or empty text.
        """
        values = [value.strip() if isinstance(value, str) else "" for value in self._column(column)]
        self._check(np.array([not value for value in values]), column, "no text: fill the cell or drop the row")
        return values

    def keep(self, column: str, values: Sequence[Any]) -> "Columns":
        """Only the rows whose value, as it is written, is one of ``values``."""
        kept = self._column(column).astype(str).isin([str(value) for value in values])
        return replace(self, frame=self.frame[kept])

    @property
    def parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the first file, and of the second; each (k,) int64."""
        first = self.frame.index.to_numpy() < self.first
        return np.flatnonzero(first), np.flatnonzero(~first)

    def _number(self, column: str) -> NDArray[np.float64]:
        import pandas

        series = self._column(column)
        if series.dtype.kind in "mM":  # dates would become nanoseconds
            raise told(ValueError(f"column {column!r} holds dates: make it a number, or leave it out of data.features"))
        parsed = pandas.to_numeric(series, errors="coerce")
        values: NDArray[np.float64] = parsed.to_numpy(dtype=np.float64, na_value=np.nan)
        mend = "no number: clean the cell, or leave the column out of data.features"
        self._check(~np.isfinite(values), column, mend)
        return values

    def _column(self, name: str) -> "Series[Any]":
        if name not in self.frame.columns:
            columns = [str(column) for column in self.frame.columns]
            near = difflib.get_close_matches(name, columns, 1)
            hint = f"did you mean {near[0]!r}? Its" if near else "its"
            wrong = f"no column {name!r} in {self.files[0]}: {hint} columns are {', '.join(columns)}"
            raise told(ValueError(wrong), f"no column {name!r}")  # a file without a header begins with a record
        return self.frame[name]

    def _check(self, bad: NDArray[np.bool_], column: str, what: str, tell_row: bool = True) -> None:
        if bad.any():
            place = int(bad.argmax())
            row = int(self.frame.index[place])  # in the files, of which some rows may have been left out
            file, number = (self.files[0], row + 1) if row < self.first else (self.files[-1], row - self.first + 1)
            cell = self.frame[column].iloc[[place]].tolist()[0]
            text = f"column {column!r} of {file}, data row {number}, holds {cell!r}, {what}"
            where = f", data row {number} of the {'first' if row < self.first else 'last'} file" if tell_row else ""
            raise told(ValueError(text), f"column {column!r}{where}: {what.removeprefix('which is ')}")


def _existing(key: str, value: str) -> Path:
    """The file that ``data.<key>`` names.

    Raises:
        FileNotFoundError: it is not there.
    """
    file = Path(value).expanduser()
    if not file.is_file():
        raise told(FileNotFoundError(f"there is no file {file}: set data.{key} to a table's path"))
    return file


def named_files(path: str | None, test_path: str | None, partial: bool = False) -> dict[str, Path]:
    """The files that are given, by their keys; with ``partial`` those of a party (see `_share`).

    Raises:
        FileNotFoundError: a file is not there, or a party's folder has none.
        ValueError: a party's folder has two files for the same part.
    """
    named = _share(path) if partial and path is not None else {"path": path, "test_path": test_path}
    return {name: _existing(name, value) for name, value in named.items() if value is not None}


def read_named(files: Mapping[str, Path]) -> Columns:
    """The rows of `named_files`; all are of the second part where there is no file for training.

    Raises:
        ValueError: as for `read`.
    """
    columns = read(list(files.values()))
    return columns if "path" in files else replace(columns, first=0)


def _share(value: str) -> dict[str, str | None]:
    """A party's files: what ``data.path`` names, for training; or by their names in that folder.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the folder has two for the same part.
    """
    path = Path(value).expanduser()
    if not path.is_dir():
        return {"path": str(path)}
    found = {name: sorted(path.glob(f"{part}.*")) for name, part in (("path", "train"), ("test_path", "test"))}
    for part in found.values():
        if len(part) > 1:
            text = f"{path} has {part[0].name} and {part[1].name}: leave one of them"
            raise told(ValueError(text), f"{path} has two files for one part of the data: leave one of them")
    if not any(found.values()):
        raise told(FileNotFoundError(f"{path} has neither train.csv nor test.csv (or .tsv, .jsonl, .parquet)"))
    return {name: str(part[0]) if part else None for name, part in found.items()}


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
        mend = "check that its content is what its name says"
        raise told(ValueError(f"{file} cannot be read ({error}): {mend}"), f"{file} cannot be read: {mend}") from error
    if not len(frame):
        raise told(ValueError(f"{file} has no rows: give a table with at least one"))
    return named(frame, _names(file, frame), file)


def _names(file: Path, frame: "DataFrame") -> list[str]:
    """Of the columns as they are written: pandas makes up others for those that are double or missing."""
    if not {".csv", ".tsv"} & set(file.suffixes[-2:]):
        return [str(name) for name in frame.columns]
    first = _reader(file)(file, header=None, nrows=1, dtype=str, keep_default_na=False)
    return [str(name).strip() for name in first.iloc[0]]


def _reader(file: Path) -> "Callable[..., DataFrame]":
    import pandas

    readers: dict[str, Callable[..., DataFrame]] = {
        ".csv": partial(pandas.read_csv, low_memory=False),
        ".tsv": partial(pandas.read_csv, sep="\t", low_memory=False),
        ".parquet": pandas.read_parquet,
        ".jsonl": partial(pandas.read_json, lines=True, dtype=False),
    }
    name = file.with_suffix("") if file.suffix in _COMPRESSED else file
    if name.suffix not in readers:
        raise told(
            ValueError(
                f"{file} is of no known format: use {', '.join(readers)}; text also with {', '.join(_COMPRESSED)}"
            )
        )
    return readers[name.suffix]
