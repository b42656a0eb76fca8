"""What is learnt: for each task its loss, its metrics, and what its targets and a model's outputs must be.

A task is a frozen `Task`, in a module of its own here, or a user's own, named by its import path. Nothing in here needs
torch before it is used.
"""

from importlib import import_module

from fedrac.data.tasks.task import IGNORED, Loss, Task

__all__ = ["IGNORED", "NAMES", "Loss", "Task", "named", "with_loss"]

NAMES = ("classification", "regression", "multi_label", "tagging", "causal_lm")


def named(task: str | Task) -> Task:
    """The task of this name.

    Args:
        task: one of `NAMES`, or the import path of a `Task`, e.g. ``my_module.my_task``; a `Task` is what it is.

    Raises:
        ValueError: there is none of this name.
    """
    if isinstance(task, Task):
        return task
    if task in NAMES:
        found: Task = import_module(f"fedrac.data.tasks.{task}").TASK
        return found
    if "." not in task:
        raise ValueError(
            f"data.task={task} is unknown: choose one of {', '.join(NAMES)}, or the import path of a "
            "fedrac.data.tasks.Task, e.g. my_module.my_task"
        )
    from dataclasses import replace

    from fedrac.loading.target import find

    own = find(task, "data.task")
    if not isinstance(own, Task):
        raise ValueError(
            f"data.task={task} is a {type(own).__name__}: make it a fedrac.data.tasks.Task, or name a function of "
            "outputs and targets as data.loss"
        )
    return replace(own, name=task)  # so that it is found again by its name


def with_loss(task: str | Task, loss: str | Loss) -> Task:
    """The task with another loss.

    Args:
        task: as for `named`.
        loss: a function of outputs and targets that returns (rows,), a loss of each example; or its import path.

    Raises:
        ValueError: there is no such task or function.
    """
    from dataclasses import replace

    from fedrac.loading import target

    own = target.function(loss, "data.loss") if isinstance(loss, str) else loss
    return replace(named(task), loss=own, gradient=None)
