"""The way of every loader of this package to its data: computed once, then mapped from the cache."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrac.data import cache
from fedrac.data.examples import Data, Examples, Task


def stored(
    name: str,
    arguments: Mapping[str, Any],
    task: Task,
    build: Callable[[], tuple[Examples, Examples, int]],
    files: Sequence[Path] = (),
) -> Data:
    """The data of loader ``name`` called with ``arguments``, from the cache or from ``build()``.

    Args:
        name, arguments, files: identify the data, see :func:`fedrac.data.cache.key`.
        task: what the targets are.
        build: returns the training part, the test part and the number of outputs.
    """

    def build_arrays() -> cache.Arrays:
        train, test, outputs = build()
        return {**_arrays("train", train), **_arrays("test", test), "outputs": np.array(outputs)}

    key = cache.key(name, arguments, files)
    arrays = cache.arrays(key, build_arrays)
    return Data(_examples("train", arrays), _examples("test", arrays), task, int(arrays["outputs"]), key)


def _arrays(part: str, examples: Examples) -> cache.Arrays:
    arrays: cache.Arrays = {f"{part}/inputs": examples.inputs, f"{part}/targets": examples.targets}
    return arrays if examples.groups is None else {**arrays, f"{part}/groups": examples.groups}


def _examples(part: str, arrays: cache.Arrays) -> Examples:
    return Examples(arrays[f"{part}/inputs"], arrays[f"{part}/targets"], arrays.get(f"{part}/groups"))
