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
        raise ValueError(_not_taken(examples, inputs, error)) from error
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


def _not_taken(examples: data.Examples, inputs: Tensor, error: Exception) -> str:
    hint = _hint(examples, inputs, str(error))
    return f"the model does not take {_described(examples)}: {_told(error)}" + (f". {hint}" if hint else "")


def _described(examples: data.Examples) -> str:
    tokens = examples.inputs
    if isinstance(tokens, Tokens):
        return f"these texts, of up to {tokens.lengths.max()} tokens and token ids of up to {tokens.ids.max()}"
    return f"an example of shape {tokens.shape[1:]}, {examples.kind}"


def _told(error: Exception) -> str:
    """The error itself, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")


def _hint(examples: data.Examples, inputs: Tensor, error: str) -> str:
    """What would help; nothing where the error does not say enough."""
    low, texts = error.lower(), examples.kind == "texts"
    if "index out of range" in low or "indexerror" in low:
        return _hint_of_ids(inputs, texts)
    if "'indices' to have one of the following scalar types" in low or "expected tensor for argument #1" in low:
        return "An embedding takes integers: return the ids as integers from the data function, not as floats"
    kinds = {kind for kind in ("float", "double", "bfloat16", "half", "long", "int") if kind in low}
    if "dtype" in low or "scalar type" in low or "same type" in low or len(kinds) > 1:
        if not texts and not inputs.is_floating_point():
            return (
                "The inputs are integers, and stay integers: if the model takes numbers, return them as floats from "
                "the data function, e.g. x.astype(numpy.float32)"
            )
        return f"The model mixes dtypes, where the run computes in {_name(inputs)}set runtime.dtype=float32"
    if "shape" in low or "size" in low or "channels" in low or "dimension" in low or "matrix" in low:
        if texts:
            return (
                "Set data.tokenizer to the model's own and data.max_length to what it can read, or choose a model for "
                "texts"
            )
        return "Set model.inputs and its like, or choose another model"
    return ""


def _name(inputs: Tensor) -> str:
    return f"{str(inputs.dtype).removeprefix('torch.')}: " if inputs.is_floating_point() else "another: "


def _hint_of_ids(inputs: Tensor, texts: bool) -> str:
    if texts:
        return "Set data.tokenizer to the model's own and data.max_length to what it can read"
    if inputs.is_floating_point():
        return ""
    return f"Is there an embedding with fewer rows than the ids need? One of the first has id {int(inputs.max())}"
