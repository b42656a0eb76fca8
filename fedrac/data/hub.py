"""Data sets of the Hugging Face hub."""

from pathlib import Path
from typing import Any

import numpy as np

from fedrac.data.columns import Columns


def download(name: str, subset: str | None = None, revision: str | None = None, instead: str = "data=text") -> Any:
    """A data set by its name, as a mapping of splits.

    Args:
        name: on the hub, e.g. ``nyu-mll/glue``.
        subset: one of its configurations, e.g. ``mrpc``.
        revision: a commit or tag of it.
        instead: the option that reads a copy on disk, for the error.

    Raises:
        ConnectionError: the hub cannot be reached or has no such data set.
    """
    import datasets

    try:
        return datasets.load_dataset(name, subset, revision=revision)
    except (ConnectionError, FileNotFoundError, ValueError) as error:  # ValueError: no such subset
        raise ConnectionError(
            f"{name}{f' ({subset})' if subset else ''} could not be loaded from the hub ({error}): check the name and "
            f"the network, or use a copy on disk with {instead} data.path=PATH"
        ) from error


def columns(name: str, splits: Any, parts: tuple[str, ...]) -> Columns:
    """The rows of these splits, one after another; numbers of named classes become their names.

    Raises:
        ValueError: a split is not there.
    """
    import pandas

    frames = []
    for part in parts:
        if part not in splits:
            raise ValueError(f"{name} has no split {part!r}, only {', '.join(sorted(splits))}")
        frame = splits[part].to_pandas()
        for column, feature in splits[part].features.items():
            if (names := getattr(feature, "names", None)) is not None:
                frame[column] = np.array([*names, "(no label)"])[frame[column].to_numpy()]  # -1 stands for no label
        frames.append(frame)
    return Columns(pandas.concat(frames, ignore_index=True), [Path(name, part) for part in parts], len(frames[0]))
