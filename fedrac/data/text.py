"""Texts in files or from the hub: tokenized once, then mapped from the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fedrac import metrics as of_sets
from fedrac.data import hub
from fedrac.data.columns import Columns, read
from fedrac.data.examples import Data, Examples, Task
from fedrac.data.split import Index, split
from fedrac.data.store import stored
from fedrac.data.tokenizer import Tokenizer, TooLong


@dataclass(frozen=True)
class Meaning:
    """What the columns mean.

    Attributes:
        text: one or two columns of texts.
        target: the column to predict; None for a language model.
        task: what the target is.
        classes: all labels, numbered 0, 1, ... in this order; None: those that training rows have, sorted.
        group: the column that names the natural client of a row.
    """

    text: Sequence[str]
    target: str | None
    task: Task
    classes: Sequence[str | int] | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ValueError(f"data.task={self.task} is unknown: choose one of {', '.join(get_args(Task))}")
        if len(self.text) not in (1, 2):
            raise ValueError(f"data.text={list(self.text)}: name one column, or two for pairs of texts")
        if self.target is None and self.task != "causal_lm":
            raise ValueError(f"data.target=null: a {self.task} needs the column to predict, e.g. data.target=label")


Splitter = Callable[[Columns, Meaning], tuple[Index, Index]]


def text(
    path: str | None = None,
    hub_name: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    test_path: str | None = None,
    test_split: str | None = None,
    text: str | Sequence[str] = "text",
    target: str | None = "label",
    task: Task = "classification",
    classes: Sequence[str | int] | None = None,
    group: str | None = None,
    tokenizer: str | None = None,
    max_length: int | None = 128,
    too_long: TooLong = "truncate",
    split_by: str | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float | None = None,
    split_seed: int = 0,
    metrics: Sequence[str] = (),
) -> Data:
    """Examples from the rows of a table with one or two columns of texts.

    Args:
        path: a .csv, .tsv, .parquet or .jsonl file; the text formats may be compressed (.gz, .bz2, .xz, .zip).
        hub_name, subset, revision: or a data set of the Hugging Face hub, of which the split ``train`` is read.
        test_path, test_split: another file, or the hub's split, for testing; where None, ``test_fraction`` of the rows
            are.
        text, target, task, group: see `Meaning`; one text may be named without a list, and the target of a language
            model is not read.
        classes: labels to keep, numbered 0, 1, ... in this order; rows with another one are left out. None: all.
        tokenizer, max_length, too_long: see `Tokenizer`.
        split_by: a column; rows that agree in it go to the same part. Where None, every class is divided alike.
        validation_fraction: to choose settings by: the model is tested on this share of the training part, which the
            clients then lack, and not on the test part.
        split_seed: names the split; not the run's seed.
        metrics: of the whole test part, see `fedrac.metrics`.

    Raises:
        FileNotFoundError: a file is not there.
        ConnectionError: the hub cannot be reached.
        ValueError: a column that is not there, an empty text, a missing or unknown label, a text that is too long.
    """
    meaning = Meaning([text] if isinstance(text, str) else list(text), target, task, classes, group)
    if (path is None) == (hub_name is None):
        raise ValueError(
            f"data.path={path} data.hub_name={hub_name}: set one of them, e.g. data.path=/data/reviews.csv"
        )
    files = [_file(name, value) for name, value in (("path", path), ("test_path", test_path)) if value is not None]

    def source() -> Columns:
        if files:
            rows = read(files)
        else:
            splits = ("train",) if test_split is None else ("train", test_split)
            rows = hub.columns(str(hub_name), hub.download(str(hub_name), subset, revision), splits)
        return rows if classes is None else rows.keep(str(target), classes)

    def parts(columns: Columns, meaning: Meaning) -> tuple[Index, Index]:
        train, test = columns.parts
        if not len(test):
            train, test = divide(columns, meaning, train, split_by, test_fraction, split_seed)
        if validation_fraction is not None:
            train, test = divide(columns, meaning, train, split_by, validation_fraction, split_seed)
        return train, test

    arguments = {"hub": [hub_name, subset, revision, test_split], "split_by": split_by, "test_fraction": test_fraction}
    arguments |= {"validation_fraction": validation_fraction, "split_seed": split_seed}
    return tokenized(
        "text.text", arguments, source, meaning, parts, Tokenizer(tokenizer, max_length, too_long), files, metrics
    )


def tokenized(
    name: str,
    arguments: dict[str, Any],
    source: Callable[[], Columns],
    meaning: Meaning,
    parts: Splitter,
    tokenizer: Tokenizer,
    files: Sequence[Path],
    metrics: Sequence[str],
) -> Data:
    """The data of loader ``name``, from the cache or built from ``source()``.

    Args:
        name, arguments, files: identify rows and split, see `fedrac.data.cache.key`; the rest is added here.
        source: reads the columns.
        parts: the training and the test rows, each (k,) int64.
        metrics: see `Data`.

    Raises:
        ValueError: as for `text`.
    """
    of_sets.check(metrics, meaning.task)

    def build() -> tuple[Examples, Examples, int | Sequence[str]]:
        columns = source()
        train, test = parts(columns, meaning)
        targets, outputs = _targets(columns, meaning, train, tokenizer)
        groups = None if meaning.group is None else np.unique(columns.plain(meaning.group), return_inverse=True)[1]
        first, *second = (columns.texts(column) for column in meaning.text)
        tokens = tokenizer.encode(first, second[0] if second else None, end=meaning.task == "causal_lm")
        if meaning.task == "causal_lm" and (short := tokens.lengths < 2).any():
            raise ValueError(f"text {int(short.argmax()) + 1} is a single token, after which nothing follows: drop it")
        examples = Examples(tokens, targets, groups)
        return examples.take(train), examples.take(test), outputs

    reading = {**tokenizer.identity(), "meaning": [*vars(meaning).values()]}
    if tokenizer.too_long == "refuse":  # such data are in the cache only if nothing was cut
        reading["too_long"] = "refuse"
    return stored(name, {**arguments, **reading}, meaning.task, build, [*files, *tokenizer.files], metrics)


def divide(
    columns: Columns, meaning: Meaning, rows: Index, by: str | None, fraction: float, seed: int
) -> tuple[Index, Index]:
    """Some of ``rows``, and ``fraction`` of them; see `fedrac.data.split`.

    Args:
        by: a column; rows that agree in it stay together, and the fraction is that of its values.
    """
    if by is None:
        labels = meaning.target if meaning.task == "classification" else None
        strata = np.zeros(len(rows)) if labels is None else columns.plain(labels)[rows]
        kept, taken = split(strata, fraction, seed)
        return rows[kept], rows[taken]
    values, owners = np.unique(columns.plain(by)[rows], return_inverse=True)
    _, taken = split(np.zeros(len(values)), fraction, seed)
    for_test = np.isin(owners, taken)
    return rows[~for_test], rows[for_test]


def _targets(
    columns: Columns, meaning: Meaning, train: Index, tokenizer: Tokenizer
) -> tuple[NDArray[Any] | None, int | Sequence[str]]:
    if meaning.target is None or meaning.task == "causal_lm":
        return None, tokenizer.size
    if meaning.task == "regression":
        return columns.numbers([meaning.target]).astype(np.float32), 1
    if meaning.classes is not None:
        return columns.classes(meaning.target, meaning.classes), [str(name) for name in meaning.classes]
    names = np.unique(columns.plain(meaning.target)[train])
    return columns.labels(meaning.target, train)[0], [str(name) for name in names]


def _file(name: str, value: str) -> Path:
    file = Path(value).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: set data.{name} to a table's path")
    return file
