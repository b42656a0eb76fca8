"""Whether a model takes the examples, and its outputs and the loss fit their targets."""

import numpy as np
import torch
from torch import Tensor, nn

from fedrac import data
from fedrac.data.batch import batch
from fedrac.data.tasks import Task
from fedrac.data.tokens import Tokens
from fedrac.training import evaluation


@torch.no_grad()
def check_model(
    model: nn.Module, examples: data.Examples, task: Task, device: torch.device, dtype: torch.dtype
) -> None:
    """Before any training: the model takes an example, its outputs fit all targets, and the loss is one for each row.

    Raises:
        ValueError: it does not, or they do not.
    """
    tokens = examples.inputs if isinstance(examples.inputs, Tokens) else None
    inputs, targets = batch(examples.take(np.array(_telling(examples))), device, dtype)
    model.eval()
    try:
        outputs = evaluation.call(model, inputs)
    except (RuntimeError, IndexError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise ValueError(_not_taken(examples, inputs, dtype, error)) from error
    task.check(outputs, np.array(tokens.ids if tokens and examples.targets is None else examples.targets))
    _check_loss(task, outputs, targets)


def _telling(examples: data.Examples) -> list[int]:
    """Two rows; of texts the longest and the one with the largest token id."""
    tokens = examples.inputs
    if not isinstance(tokens, Tokens):
        return [0, len(examples) - 1]
    return [int(tokens.lengths.argmax()), tokens.text_of(int(tokens.ids.argmax()))]


def _check_loss(task: Task, outputs: Tensor, targets: Tensor) -> None:
    try:
        losses = task.loss(outputs, targets)
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(
            f"the loss of data.task={task.name} does not take outputs of shape {tuple(outputs.shape)} with "
            f"{targets.dtype} targets of shape {tuple(targets.shape)}: {_told(error)}"
        ) from error
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    if shape != (len(outputs),):
        raise ValueError(
            f"the loss of data.task={task.name} gives {shape} for {len(outputs)} examples: make it ({len(outputs)},), "
            "one number for each example (reduction='none', and a mean over all that is not the batch)"
        )


def _not_taken(examples: data.Examples, inputs: Tensor, dtype: torch.dtype, error: Exception) -> str:
    hint = _hint(examples.kind == "texts", inputs, dtype, str(error).lower())
    return f"the model does not take {_described(examples)}: {_told(error)}" + (f". {hint}" if hint else "")


def _described(examples: data.Examples) -> str:
    tokens = examples.inputs
    if isinstance(tokens, Tokens):
        return f"these texts, of up to {tokens.lengths.max()} tokens and token ids of up to {tokens.ids.max()}"
    return f"an example of shape {tokens.shape[1:]}, {examples.kind}"


def _told(error: Exception) -> str:
    """The error itself, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")


def _hint(texts: bool, inputs: Tensor, dtype: torch.dtype, error: str) -> str:
    """What would help; nothing where the error does not say enough."""
    if "index out of range" in error or "out of bounds" in error:
        return _TEXTS if texts else f"Does an embedding have a row for every id? There are ids up to {inputs.max()}"
    if "'indices'" in error and "scalar types" in error:
        return "An embedding takes integers: return the ids as integers from the data function, not as floats"
    if _names_dtypes(error):
        if texts or inputs.is_floating_point():
            return (
                "" if dtype == torch.float32 else "Not every model computes in every dtype: try runtime.dtype=float32"
            )
        return (
            "Integers stay integers: if the model takes numbers, return them as floats from the data function, e.g. "
            "x.astype(numpy.float32)"
        )
    if any(word in error for word in ("shape", "size", "channels", "dimension")):
        return _TEXTS if texts else "Set model.inputs and its like, or choose another model"
    return ""


_TEXTS = "Set data.tokenizer to the model's own and data.max_length to what it can read, or choose a model for texts"


def _names_dtypes(error: str) -> bool:
    """Whether an error of torch is about a dtype: it names two that differ, or one in which something is missing."""
    named = {name for name in ("float", "double", "half", "bfloat16", "long", "byte") if name in error}
    return "not implemented for" in error or (len(named) > 1 and ("type" in error or "expected" in error))
