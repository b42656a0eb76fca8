"""The next token of a text."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from fedrac.data.tasks import tagging
from fedrac.data.tasks.labels import check_tokens, names_of
from fedrac.data.tasks.task import Task


def answer(logits: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """The likeliest token after the last one, of logits (T, vocabulary)."""
    return {"next": names_of(labels, logits.shape[1])[int(logits[-1].argmax())]}


def check_targets(ids: NDArray[Any], what: str) -> None:
    """All token ids there are may follow."""


def check_outputs(outputs: Tensor, ids: NDArray[Any]) -> None:
    """Outputs (rows, T, V) of a few texts must have a column for each of all token ids.

    Raises:
        ValueError: they do not.
    """
    check_tokens(outputs, "causal_lm", "vocabulary", "choose a model with a language-model head, or another data.task")
    if (high := int(ids.max())) >= outputs.shape[2]:
        raise ValueError(
            f"token {high} but the model knows {outputs.shape[2]} tokens: set data.tokenizer to the model's own"
        )


# A label for each token: the next one, which is `IGNORED` where there is none.
TASK = Task(
    "causal_lm", 0, "int64", tagging.loss, tagging.metrics, tagging.predictions, answer, check_targets, check_outputs
)
