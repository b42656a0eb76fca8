"""Whether a model takes the examples, and its outputs fit their targets."""

import numpy as np
import torch
from torch import nn

from fedrac import data
from fedrac.data import tasks
from fedrac.data.batch import batch
from fedrac.data.tokens import Tokens
from fedrac.training import evaluation


@torch.no_grad()
def check_model(
    model: nn.Module, examples: data.Examples, kind: data.Task, device: torch.device, dtype: torch.dtype
) -> None:
    """Before any training: the model takes an example, and its outputs fit all targets.

    Raises:
        ValueError: it does not.
    """
    tokens = examples.inputs if isinstance(examples.inputs, Tokens) else None
    rows = [0] if tokens is None else [int(tokens.lengths.argmax()), tokens.text_of(int(tokens.ids.argmax()))]
    inputs, _ = batch(examples.take(np.array(rows)), device, dtype)
    model.eval()
    try:
        outputs = evaluation.call(model, inputs)
    except (RuntimeError, IndexError, TypeError) as error:
        raise ValueError(_not_taken(tokens, examples, error)) from error
    tasks.check(kind, outputs, np.array(tokens.ids if examples.targets is None and tokens else examples.targets))


def _not_taken(tokens: Tokens | None, examples: data.Examples, error: Exception) -> str:
    if tokens is None:
        return (
            f"the model does not take an example of shape {examples.inputs.shape[1:]}: {error}. Set model.inputs and "  # type: ignore[union-attr]
            "its like, or choose another model"
        )
    return (
        f"the model does not take these texts, of up to {tokens.lengths.max()} tokens and token ids of up to "
        f"{tokens.ids.max()}: {error}. Set data.tokenizer to the model's own and data.max_length to what it can read, "
        "or choose a model for texts"
    )
