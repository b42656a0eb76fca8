"""What a task's outputs mean: its loss, its metrics, and whether model and targets fit each other."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedrac.data.batch import IGNORED
from fedrac.data.examples import Task

_SHORT = 16  # PyTorch's softmax along rows shorter than that is slow: it goes number by number


def loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of each example, (rows,).

    Args:
        outputs: (rows, classes) logits of a classification, (rows, k) predictions of a regression, or (rows, T, V)
            logits of a causal language model.
        targets: (rows,) int64 labels, (rows, k) values, or (rows, T) next token ids, `IGNORED` where there is none.

    Returns:
        Cross-entropy for a classification; half the squared error, summed over the k outputs, for a
        regression; for a language model the cross-entropy of the next token, averaged over a row's tokens that
        have one. Computed in float32 where the model computes in less.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if task == "classification":
        if outputs.shape[1] >= _SHORT:
            return F.cross_entropy(outputs, targets, reduction="none")
        return F.nll_loss(outputs.T.contiguous().log_softmax(0).T, targets, reduction="none")
    if task == "causal_lm":
        each = F.cross_entropy(outputs.mT, targets, reduction="none", ignore_index=IGNORED)
        return each.sum(1) / _predicted(targets)
    return 0.5 * (outputs - targets).square().sum(dim=1)


@torch.no_grad()
def metrics(task: Task, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Metrics as sums over the examples, so that those of batches, clients and hosts add up.

    Args:
        outputs, targets: as for :func:`loss`.

    Returns:
        ``loss``; for a classification ``accuracy``, the number of examples that are right; for a regression
        ``mse``, the squared error averaged over the k outputs; for a language model ``accuracy``, the share of a
        row's tokens that are right. Divided by the number of examples they are means.
    """
    total = loss(task, outputs, targets).double().sum().item()
    if task == "classification":
        return {"loss": total, "accuracy": float((outputs.argmax(dim=1) == targets).sum().item())}
    if task == "causal_lm":
        right = (outputs.argmax(dim=2) == targets).sum(1) / _predicted(targets)
        return {"loss": total, "accuracy": right.double().sum().item()}
    return {"loss": total, "mse": (outputs - targets).double().square().mean(dim=1).sum().item()}


def _predicted(targets: Tensor) -> Tensor:
    """How many tokens of each row are predicted, (rows,); 1 where there are none, so that their mean is 0."""
    return (targets != IGNORED).sum(1).clamp_min(1)


def predictions(task: Task, outputs: Tensor) -> Tensor:
    """What the outputs say: (rows,) int64 labels of a classification, (rows, k) values of a regression."""
    return outputs.argmax(dim=1) if task == "classification" else outputs


def check(task: Task, outputs: Tensor, targets: NDArray[Any] | Tensor) -> None:
    """Make sure, before training, that a model's outputs fit the targets.

    Args:
        outputs: what the model gives for any few examples.
        targets: all targets that will be met, of any number; for a language model all token ids.

    Raises:
        ValueError: outputs that are no (rows, k) matrix (for a language model (rows, T, V)), labels or token ids
            beyond the outputs, or another number of values.
    """
    # A copy: torch warns of arrays that cannot be written, as memory maps cannot.
    values = targets if isinstance(targets, Tensor) else torch.from_numpy(np.array(targets))
    if task == "causal_lm":
        _check_tokens(values, outputs)
        return
    if outputs.ndim != 2:
        raise ValueError(
            f"the model's outputs have shape {tuple(outputs.shape)}: make them (rows, outputs), e.g. one logit a class"
        )
    width = outputs.shape[1]
    if task == "classification":
        _check_labels(values, width)
    elif values.ndim != 2 or values.shape[1] != width:
        raise ValueError(
            f"the targets have shape {tuple(values.shape)} but the model has {width} outputs: set "
            f"model.outputs={values.shape[1] if values.ndim == 2 else 1}, and give targets as (N, outputs)"
        )


def _check_tokens(ids: Tensor, outputs: Tensor) -> None:
    if outputs.ndim != 3:
        raise ValueError(
            f"the model's outputs have shape {tuple(outputs.shape)}: a causal_lm gives (rows, tokens, vocabulary), so "
            "choose a model with a language-model head, or another data.task"
        )
    if (high := int(ids.max())) >= outputs.shape[2]:
        raise ValueError(
            f"token {high} but the model knows {outputs.shape[2]} tokens: set data.tokenizer to the model's own"
        )


def _check_labels(labels: Tensor, width: int) -> None:
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"the targets are {labels.dtype} of shape {tuple(labels.shape)}: a classification has (N,) integer labels"
        )
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0:
        raise ValueError(f"label {low} is negative: number the classes 0, 1, 2, ...")
    if high >= width:
        raise ValueError(
            f"label {high} but the model has {width} outputs: set model.outputs={high + 1}, or choose fewer classes"
        )
