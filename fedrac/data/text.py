"""Texts in files or from the hub: tokenized once, then mapped from the cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data import hub
from fedrac.data import metrics as of_sets
from fedrac.data.columns import Columns, named_files, read_named
from fedrac.data.examples import Data, Examples
from fedrac.data.split import Index, split, split_whole
from fedrac.data.store import stored
from fedrac.data.table import values_of
from fedrac.data.tasks import named
from fedrac.data.tokenizer import Tokenizer, TooLong
from fedrac.loading.told import told


@dataclass(frozen=True)
class Meaning:
    """What the columns mean.

    Attributes:
        text: one or two columns of texts.
        target: the column to predict, or a list for several values or labels (of 0 and 1); None for a language model.
        task: what the target is, by its name.
        classes: all labels, numbered 0, 1, ... in this order; None: those that training rows have, sorted.
        group: the column that names the natural client of a row.

    Raises:
        ValueError: the task is unknown, or does not go with these columns.
    """

    text: Sequence[str]
    target: str | Sequence[str] | None
    task: str
    classes: Sequence[str | int] | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        task = named(self.task)
        if task.dimensions > 1 and task.dtype == "int64":
            wrong = f"data.task={self.task}: a table has a target for each text, not one for each token"
            raise told(ValueError(wrong))
        if len(self.text) not in (1, 2):
            raise told(ValueError(f"data.text={list(self.text)}: name one column, or two for pairs of texts"))
        if self.target is None and task.dimensions:
            wrong = f"data.target=null: a {self.task} needs the column to predict, e.g. data.target=label"
            raise told(ValueError(wrong))
        if task.dimensions == 1 and not isinstance(self.target, str):
            raise told(ValueError(f"data.target={self.target}: a {self.task} has one target column"))

    @property
    def label(self) -> str | None:
        """The column of labels, where every text has one."""
        task = named(self.task)
        return str(self.target) if task.dimensions == 1 else None

    @property
    def values(self) -> list[str]:
        """The columns of numbers."""
        return [self.target] if isinstance(self.target, str) else list(self.target or ())


Groups = NDArray[np.int64] | None
Splitter = Callable[[Columns, Groups], tuple[Index, Index]]


def text(
    path: str | None = None,
    hub_name: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    test_path: str | None = None,
    test_split: str | None = None,
    text: str | Sequence[str] = "text",
    target: str | Sequence[str] | None = "label",
    task: str = "classification",
    classes: Sequence[str | int] | None = None,
    group: str | None = None,
    tokenizer: str | None = None,
    max_length: int | None = 128,
    too_long: TooLong = "truncate",
    split_groups: bool = False,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    metrics: Sequence[str] = (),
    partial: bool = False,
) -> Data:
    """Examples from the rows of a table with one or two columns of texts.

    Args:
        path: a .csv, .tsv, .parquet or .jsonl file; the text formats may be compressed (.gz, .bz2, .xz, .zip). With
            ``partial`` also a folder with ``train.csv`` or its like, ``test.csv``, or both.
        hub_name, subset, revision: or a data set of the Hugging Face hub, of which the split ``train`` is read.
        test_path, test_split: another file, or the hub's split, for testing; where None, ``test_fraction`` of the rows
            are.
        text, target, task, group: see `Meaning`; one text may be named without a list, and the target of a language
            model is not read.
        classes: labels to keep, numbered 0, 1, ... in this order; rows with another one are left out. None: all.
        tokenizer, max_length, too_long: see `Tokenizer`.
        split_groups: a group is of one part as a whole, so that the model is tested on groups that no client has (and
            so it is with ``evaluate.validation``). Otherwise every class is divided alike.
        split_seed: names the split; not the run's seed.
        metrics: of the whole test part, see `fedrac.data.metrics`.
        partial: a party's share of a federation. All rows of ``path`` are for training; classes may be missing, so the
            list must be given.

    Raises:
        FileNotFoundError: a file is not there.
        ConnectionError: the hub cannot be reached.
        ValueError: a column that is not there, an empty text, a missing or unknown label, a text that is too long.
    """
    meaning = Meaning([text] if isinstance(text, str) else list(text), target, task, classes, group)
    if (path is None) == (hub_name is None):
        wrong = f"data.path={path} data.hub_name={hub_name}: set one of them, e.g. data.path=/data/reviews.csv"
        raise told(ValueError(wrong))
    if partial and meaning.label and classes is None:
        wrong = "all parties of a federation must number their labels alike"
        raise told(ValueError(f"{wrong}: set data.classes to the list of all labels, e.g. [no,yes]"))
    files = named_files(path, test_path, partial)

    def source() -> Columns:
        if files:
            rows = read_named(files)
        else:
            splits = ("train",) if test_split is None else ("train", test_split)
            rows = hub.columns(str(hub_name), hub.download(str(hub_name), subset, revision), splits)
        return rows if classes is None else rows.keep(str(target), classes)

    def parts(columns: Columns, groups: Groups) -> tuple[Index, Index]:
        train, test = columns.parts
        if partial or len(test):
            return train, test
        if split_groups and groups is not None:
            return split_whole(groups, test_fraction, split_seed)
        labels = columns.plain(meaning.label) if meaning.label else np.zeros(len(train))
        return split(labels, test_fraction, split_seed)

    if split_groups and group is None:
        raise told(ValueError("data.split_groups=true needs groups: set data.group to the column that names them"))
    arguments = {"hub": [hub_name, subset, revision, test_split], "split_groups": split_groups}
    arguments |= {"test_fraction": test_fraction, "split_seed": split_seed, "parts": list(files) if partial else None}
    reading = Tokenizer(tokenizer, max_length, too_long)
    data = tokenized("text.text", arguments, source, meaning, parts, reading, list(files.values()), metrics)
    return replace(data, groups_apart=split_groups)


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
        name, arguments, files: identify rows and split, see `fedrac.loading.cache.key`; the rest is added here.
        source: reads the columns.
        parts: the training and the test rows, each (k,) int64, from the columns and the groups.
        metrics: see `Data`.

    Raises:
        ValueError: as for `text`.
    """
    of_sets.check(metrics, meaning.task)

    def build() -> tuple[Examples, Examples, int | Sequence[str]]:
        columns = source()
        groups = None if meaning.group is None else np.unique(columns.plain(meaning.group), return_inverse=True)[1]
        train, test = parts(columns, groups)
        targets, outputs = _targets(columns, meaning, train, tokenizer)
        first, *second = (columns.texts(column) for column in meaning.text)
        follows = named(meaning.task).dimensions == 0  # the targets are the next tokens
        tokens = tokenizer.encode(first, second[0] if second else None, end=follows)
        if follows and (short := tokens.lengths < 2).any():
            where = f"text {int(short.argmax()) + 1}"
            raise told(ValueError(f"{where} is a single token, after which nothing follows: drop it"))
        examples = Examples(tokens, targets, groups)
        return examples.take(train), examples.take(test), outputs

    reading = {**tokenizer.identity(), "meaning": [*vars(meaning).values()]}
    if tokenizer.too_long == "refuse":  # such data are in the cache only if nothing was cut
        reading["too_long"] = "refuse"
    return stored(name, {**arguments, **reading}, meaning.task, build, [*files, *tokenizer.files], metrics)


def _targets(
    columns: Columns, meaning: Meaning, train: Index, tokenizer: Tokenizer
) -> tuple[NDArray[Any] | None, int | Sequence[str]]:
    if named(meaning.task).dimensions == 0:
        return None, tokenizer.size
    if meaning.label is None:
        return values_of(columns, meaning.values, meaning.task)
    if meaning.classes is not None:
        return columns.classes(meaning.label, meaning.classes), [str(name) for name in meaning.classes]
    return columns.labels(meaning.label, train)
