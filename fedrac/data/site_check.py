"""What is worth knowing of one party's data before a run: for the party's own eyes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedrac.data.columns import named_files, read_named
from fedrac.data.examples import Data
from fedrac.data.tokens import Tokens

if TYPE_CHECKING:
    from pandas import DataFrame

Kind = Literal["learns", "doubtful", "wrong"]

_TABLES = ("fedrac.data.table.table", "fedrac.data.text.text")
_FAR = 1e3  # an input that large has not been scaled


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: what a run ``learns``, what is ``doubtful``, or what no run can use (``wrong``).
        text: says what, and what would be right.
    """

    kind: Kind
    text: str


def of_data(data: Data) -> list[Finding]:
    """What can be seen in the examples as a run reads them."""
    found = [Finding("learns", f"loss and metrics of a {data.task.name}, over all examples of a round"), *_inputs(data)]
    targets = data.train.targets
    if data.task.name == "classification" and targets is not None:
        counts = np.bincount(targets, minlength=data.outputs)
        names = data.labels or [str(label) for label in range(data.outputs)]
        shown = ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=False))
        found.append(Finding("learns", f"nothing of these counts, but its updates depend on them: {shown}"))
        if np.count_nonzero(counts) == 1:
            found.append(Finding("doubtful", "all examples are of one class: the model would say nothing else"))
    return found


def _inputs(data: Data) -> list[Finding]:
    inputs = data.train.inputs
    if isinstance(inputs, Tokens):
        return [Finding("learns", f"that no text is longer than {int(inputs.lengths.max())} tokens, if it tries")]
    values = inputs.reshape(len(inputs), -1)
    low, high = float(values.min()), float(values.max())
    found = [
        Finding("learns", f"that an example has the shape {inputs.shape[1:]}; values lie in {low:.4g} .. {high:.4g}")
    ]
    if max(abs(low), abs(high)) > _FAR:
        found.append(
            Finding(
                "doubtful",
                f"an input of {max(abs(low), abs(high)):.4g} is far from 1: agree on a scale (data.standardize=agreed)",
            )
        )
    constant = int((values.min(0) == values.max(0)).sum())
    if values.shape[1] <= constant:
        found.append(Finding("wrong", "all inputs are constant"))
    return found


def of_files(spec: Mapping[str, Any], place: str) -> list[Finding]:
    """What can be seen in a table's own columns; nothing where the data are no table."""
    if spec.get("_target_") not in _TABLES or not place.startswith(("/", "~")) or not Path(place).expanduser().exists():
        return []
    try:
        frame = read_named(named_files(place, None, partial=True)).frame
    except (ValueError, OSError):  # said where the run's own reader meets it
        return []
    text = spec.get("text", [])
    used = [*(spec.get("features") or []), *([text] if isinstance(text, str) else text)]
    used += [spec["target"]] if isinstance(spec.get("target"), str) else list(spec.get("target") or [])
    return [*_columns(frame, used), *_rows(frame)]


def _columns(frame: "DataFrame", used: list[str]) -> list[Finding]:
    there = [str(column) for column in frame.columns]
    found = [Finding("learns", f"that these columns are there: {', '.join(name for name in used if name in there)}")]
    found += [Finding("wrong", f"there is no column {name!r}") for name in used if name not in there]
    for name in there:
        column, empty = frame[name], int(frame[name].isna().sum())
        if name not in used:
            found.append(Finding("learns", f"nothing of column {name!r}, which the run does not name"))
        elif empty:
            found.append(Finding("wrong", f"column {name!r} has {empty} of {len(frame)} cells empty"))
        elif column.nunique() == 1:
            found.append(Finding("doubtful", f"column {name!r} has the same value in all rows"))
    for place, name in enumerate(there):
        twin = next((other for other in there[:place] if frame[other].equals(frame[name])), None)
        if twin is not None and {name, twin} <= set(used):
            found.append(Finding("doubtful", f"columns {twin!r} and {name!r} are the same"))
    return found


def _rows(frame: "DataFrame") -> list[Finding]:
    double = int(frame.duplicated().sum())
    return [Finding("doubtful", f"{double} of {len(frame)} rows are there twice")] if double else []
