"""The way of every loader of this package to its data: computed once, then mapped from the cache."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrac.data.examples import Data, Examples
from fedrac.data.tasks import Task, named
from fedrac.data.tokens import Tokens
from fedrac.loading import cache


def stored(
    name: str,
    arguments: Mapping[str, Any],
    task: str | Task,
    build: Callable[[], tuple[Examples, Examples, int | Sequence[str]]],
    files: Sequence[Path] = (),
    metrics: Sequence[str] = (),
) -> Data:
    """The data of loader ``name`` called with ``arguments``, from the cache or from ``build()``.

    Args:
        name, arguments, files: identify the data, see :func:`fedrac.loading.cache.key`.
        task: what the targets are.
        build: returns the training part, the test part, and the number of outputs or the names of the classes.
        metrics: see :class:`Data`.
    """

    def build_arrays() -> cache.Arrays:
        train, test, outputs = build()
        count, labels = (outputs, ()) if isinstance(outputs, int) else (len(outputs), outputs)
        about = {"outputs": np.array(count), "labels": np.array(labels, dtype=str)}
        return {**_arrays("train", train), **_arrays("test", test), **about}

    key = cache.key(name, arguments, files)
    arrays = cache.arrays(key, build_arrays)
    train, test = (_examples(part, arrays) for part in ("train", "test"))
    return Data(train, test, named(task), int(arrays["outputs"]), key, tuple(arrays["labels"].tolist()), tuple(metrics))


def _arrays(part: str, examples: Examples) -> cache.Arrays:
    columns = {"targets": examples.targets, "groups": examples.groups}
    if isinstance(examples.inputs, Tokens):
        tokens = examples.inputs
        columns |= {"ids": tokens.ids, "offsets": tokens.offsets, "pad": np.array(tokens.pad), "types": tokens.types}
    else:
        columns["inputs"] = examples.inputs
    return {f"{part}/{name}": column for name, column in columns.items() if column is not None}


def _examples(part: str, arrays: cache.Arrays) -> Examples:
    found = {name.removeprefix(f"{part}/"): array for name, array in arrays.items() if name.startswith(f"{part}/")}
    if "ids" in found:
        found["inputs"] = Tokens(found["ids"], found["offsets"], int(found["pad"]), found.get("types"))  # type: ignore
    return Examples(found["inputs"], found.get("targets"), found.get("groups"))
