"""The data that one party of a federation has: read as all parties read theirs, but from a place of its own."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedrac.data.examples import Data
from fedrac.data.make import make
from fedrac.loading.target import parameters
from fedrac.loading.told import told

_OF_COMMON_DATA = ("validation", "test_path")  # a party has its own


def load(spec: Mapping[str, Any], place: str) -> Data:
    """The data at ``place``; the training or the test part may be empty. Loaded once a process.

    Args:
        spec: ``data`` of the configuration: says how every party reads, and what columns or classes mean.
        place: an absolute path, which takes the place of ``spec["path"]``; or the import path of a function of the
            party's own, which takes the place of the whole ``spec`` and is called without arguments.

    Raises:
        ValueError: ``place`` is neither, or the data there are not what ``spec`` says.
        FileNotFoundError: there is nothing at ``place``.
    """
    return _loaded(json.dumps(dict(spec)), place)


@lru_cache(maxsize=64)  # an in-process run has many parties
def _loaded(spec: str, place: str) -> Data:
    shared = {key: value for key, value in json.loads(spec).items() if key not in _OF_COMMON_DATA}
    if not place.startswith(("/", "~")):
        if "/" in place:
            raise told(ValueError(f'node-config data={place!r}: give an absolute path, e.g. data="/data"'))
        meaning = {key: shared[key] for key in ("task", "loss") if key in shared}
        return make({"_target_": place, **meaning}, "node-config data", mine=True)
    if "path" not in shared:
        raise told(ValueError(f"data._target_={shared['_target_']} takes no path: choose data=idx or data=table, say"))
    path = Path(place).expanduser()
    if not path.exists():
        raise told(FileNotFoundError(f"there is no {path}"))
    shared["path"] = str(path)
    partial = {"partial": True} if "partial" in parameters(shared, "data") else {}
    return make({**shared, **partial})
