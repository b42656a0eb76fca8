"""The tasks of GLUE (Wang et al., 2019), from the hub or from a folder, with their official metrics.

The labels of GLUE's test sets are not public: the model is tested on the validation set, as the literature does.
"""

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedrac.data import hub
from fedrac.data.columns import Columns, read
from fedrac.data.examples import Data
from fedrac.data.text import Meaning, tokenized
from fedrac.data.tokenizer import Tokenizer, TooLong

if TYPE_CHECKING:
    from pandas import DataFrame

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        text: the columns of texts, as the hub names them.
        classes: what the labels 0, 1, ... mean; none for the scores of STS-B.
        metrics: the official ones, besides accuracy.
        names: names of columns in the published .tsv files that differ from the hub's.
        validation: the split for testing.
        folder: of the published archive.
    """

    text: Sequence[str]
    classes: Sequence[str]
    metrics: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    validation: str = "validation"
    folder: str = ""


_PAIR = ("sentence1", "sentence2")
_MNLI = (("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ())
_MNLI_NAMES = {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}
_EQUAL = ("not_equivalent", "equivalent")
TASKS = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), ("matthews",), folder="CoLA"),
    "sst2": GlueTask(("sentence",), ("negative", "positive"), folder="SST-2"),
    "mrpc": GlueTask(
        _PAIR, _EQUAL, ("f1",), {"Quality": "label", "#1 String": "sentence1", "#2 String": "sentence2"}, folder="MRPC"
    ),
    "stsb": GlueTask(_PAIR, (), ("pearson", "spearman"), {"score": "label"}, folder="STS-B"),
    "qqp": GlueTask(
        ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1",), {"is_duplicate": "label"}, folder="QQP"
    ),
    "mnli": GlueTask(*_MNLI, _MNLI_NAMES, "validation_matched", "MNLI"),
    "mnli_mismatched": GlueTask(*_MNLI, _MNLI_NAMES, "validation_mismatched", "MNLI"),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not_entailment"), folder="QNLI"),
    "rte": GlueTask(_PAIR, ("entailment", "not_entailment"), folder="RTE"),
    "wnli": GlueTask(_PAIR, ("not_entailment", "entailment"), folder="WNLI"),
}


def glue(
    name: str = "mrpc",
    path: str | None = None,
    tokenizer: str | None = None,
    max_length: int | None = 128,
    too_long: TooLong = "truncate",
    revision: str | None = None,
) -> Data:
    """One task of GLUE.

    Args:
        name: cola, sst2, mrpc, stsb, qqp, mnli, mnli_mismatched, qnli, rte or wnli.
        path: a folder with the published archive (``MRPC/train.tsv``, ``MRPC/dev.tsv``), or with a copy of the hub's
            files (``mrpc/train-00000-of-00001.parquet``, ``mrpc/validation...``; .jsonl and .csv, too), or the
            task's own folder of either. Where None, the hub.
        tokenizer, max_length, too_long: see `Tokenizer`.
        revision: of the hub's data set.

    Raises:
        ConnectionError: the hub cannot be reached.
        FileNotFoundError: the folder does not have the task.
        ValueError: an unknown task, or as for `fedrac.data.text.text`.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name.lower().replace("-", ""), TASKS, 1) or list(TASKS)
        raise ValueError(f"data.name={name} is no task of GLUE: choose {' or '.join(near)}")
    task = TASKS[name]
    files = [] if path is None else _files(Path(path).expanduser(), name, task)

    def source() -> Columns:
        if files:
            return _read(files, task)
        splits = hub.download(HUB, name.removesuffix("_mismatched"), revision, instead="data=glue")
        return hub.columns(f"{HUB}/{name}", splits, ("train", task.validation))

    kind = "classification" if task.classes else "regression"
    meaning = Meaning(task.text, "label", kind, task.classes or None)
    reading = Tokenizer(tokenizer, max_length, too_long)
    arguments = {"name": name, "revision": revision}
    return tokenized(
        "glue.glue", arguments, source, meaning, lambda columns, _: columns.parts, reading, files, task.metrics
    )


def _files(folder: Path, name: str, task: GlueTask) -> list[Path]:
    """The files of the training and the validation part."""
    inside = [folder / inner for inner in (task.folder, name.removesuffix("_mismatched"))]
    place = next((inner for inner in inside if inner.is_dir()), folder)
    alike = task.validation.replace("validation", "dev")  # as the archive names it
    return [_one(place, ("train",), name), _one(place, (task.validation, alike), name)]


def _one(folder: Path, stems: Sequence[str], name: str) -> Path:
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.name.split(".")[0].split("-")[0] in stems and file.suffix in (".tsv", ".parquet", ".jsonl", ".csv"):
            return file
    raise FileNotFoundError(
        f"{folder} has no {stems[-1]}.tsv (or .parquet, .jsonl, .csv): set data.path to a folder with GLUE's {name}"
    )


def _read(files: Sequence[Path], task: GlueTask) -> Columns:
    """The rows of the training and the validation file, with the hub's names of columns and classes."""
    import pandas

    parts = [_published(file, task) if file.suffix == ".tsv" else read([file]).frame for file in files]
    rows = pandas.concat([part.rename(columns=dict(task.names)) for part in parts], ignore_index=True)
    if task.classes and "label" in rows.columns:
        numbers = {str(i): label for i, label in enumerate(task.classes)}
        rows["label"] = rows["label"].astype(str).replace(numbers)
    return Columns(rows, files, len(parts[0]))


def _published(file: Path, task: GlueTask) -> "DataFrame":
    """A .tsv of the published archive: quotes mean nothing there, and CoLA's have no header."""
    import pandas

    names = ["source", "label", "mark", "sentence"] if task is TASKS["cola"] else None
    try:
        return pandas.read_csv(
            file, sep="\t", quoting=csv.QUOTE_NONE, names=names, keep_default_na=False, dtype=str, encoding="utf-8-sig"
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): check that it is GLUE's") from error
