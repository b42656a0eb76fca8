"""Data: loaders, and what they return.

A loader is any function, named in ``conf/data`` or by a user under ``data._target_``, whose result
:func:`fedrac.data.coerce.coerce` accepts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fedrac.data.examples import Data, Examples
from fedrac.data.tasks import Task

__all__ = ["Data", "Examples", "Task", "load"]


def load(spec: Mapping[str, Any], needed: Sequence[str] = ("train", "test")) -> Data:
    """Load the data that ``spec`` names, e.g. ``{"_target_": "fedrac.data.mnist.embedded", "classes": [0,
    1]}``.

    Args:
        spec: the loader and its arguments. With ``validation``, a fraction, a part of the training examples takes the
            place of the test part (`fedrac.data.validation.hold_out`). ``task`` and ``loss`` say what is learnt, where
            the loader itself does not (`fedrac.data.make.make`).
        needed: the parts that must have examples.

    Raises:
        ValueError: an unknown target, arguments that it does not take, data of the wrong form, or a part without
            examples.
        FileNotFoundError: files that are not where ``spec`` says.
    """
    from fedrac.data.make import make
    from fedrac.data.validation import hold_out

    loaded = make({key: value for key, value in spec.items() if key != "validation"})
    loaded.check_filled("train")
    if spec.get("validation") is not None:
        loaded = hold_out(loaded, spec["validation"])
    loaded.check_filled(*needed)
    return loaded
