"""From a loader's name and arguments to :class:`Data` with the task and the loss that are asked for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedrac.data import tasks
from fedrac.data.coerce import coerce
from fedrac.data.examples import Data
from fedrac.loading.target import construct, parameters


def make(spec: Mapping[str, Any], group: str = "data", mine: bool = False) -> Data:
    """Call the loader that ``spec`` names.

    Args:
        spec: its import path under ``_target_`` and its arguments. Two entries are not arguments: ``task``, unless the
            loader takes an argument of this name, is what the targets mean; ``loss`` is the import path of a loss that
            takes the place of the task's own. Where they are None, both follow from the data.
        group, mine: see `fedrac.loading.target.construct`.

    Raises:
        ValueError: an unknown target, task or loss, or data of the wrong form.
    """
    arguments = dict(spec)
    loss = arguments.pop("loss", None)
    task = None
    if "task" in arguments and (arguments["task"] is None or not _takes_task(spec, group, mine)):
        task = arguments.pop("task")
    data = coerce(construct(arguments, group, mine), task)
    return data if loss is None else replace(data, task=tasks.with_loss(data.task, loss))


def _takes_task(spec: Mapping[str, Any], group: str, mine: bool) -> bool:
    try:
        return "task" in parameters(spec, group, mine)
    except Exception:  # `construct` says what is wrong with it
        return False
