"""The form of a task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # a target that counts for nothing, as in torch's cross-entropy

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
Gradient = Callable[["Tensor", "Tensor", "Tensor"], "tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Task:
    """What is learnt. Outputs and targets have one example a row; outputs are at least float32.

    Attributes:
        name: as ``data.task`` names it.
        dimensions: of the targets: 1 for (N,), 2 for (N, k); 0 where the inputs are their own targets.
        dtype: of the targets.
        loss: outputs and targets to the loss of each example, (rows,).
        metrics: outputs and targets to sums over the examples, by name, besides the loss; divided by the number of
            examples they are means, so that those of batches, clients and hosts add up.
        predictions: outputs to what they say: labels, or values.
        answer: the output of one example and the names of the classes (none: numbered) to what `fedrac predict` says.
        check_targets: raises ValueError for targets (N, ...) with a value that means nothing; their name is for the
            error.
        check_outputs: raises ValueError for outputs of a few examples that do not fit the targets (of all examples).
        gradient: outputs, targets and a weight of each example to the losses and the gradient of their weighted sum, in
            the form and dtype of the outputs: that of ``loss``, faster. None: ``loss`` is differentiated.
    """

    name: str
    dimensions: int
    dtype: Literal["int64", "float32"]
    loss: Loss
    metrics: Callable[["Tensor", "Tensor"], dict[str, float]]
    predictions: Callable[["Tensor"], "Tensor"]
    answer: Callable[["Tensor", Sequence[str]], Mapping[str, Any]]
    check_targets: Callable[[NDArray[Any], str], None]
    check_outputs: Callable[["Tensor", NDArray[Any]], None]
    gradient: Gradient | None = None

    @property
    def form(self) -> str:
        """What targets must be, in words."""
        if self.dimensions == 0:
            return "no targets: the inputs are their own"
        shape = "(N,)" if self.dimensions == 1 else f"(N, {', '.join('kthijl'[: self.dimensions - 1])})"
        return f"{shape} {'integer labels' if self.dtype == 'int64' else 'values'}"

    def fits(self, targets: NDArray[Any] | None) -> bool:
        """Whether targets have the form that this task's have."""
        if targets is None:
            return self.dimensions == 0
        return targets.ndim == self.dimensions and targets.dtype == np.dtype(self.dtype)

    def sums(self, outputs: "Tensor", targets: "Tensor") -> dict[str, float]:
        """``loss`` and the metrics, summed over the examples."""
        total = self.loss(outputs, targets).double().sum().item()
        return {"loss": total, **self.metrics(outputs, targets)}

    def check(self, outputs: "Tensor", targets: NDArray[Any]) -> None:
        """Makes sure, before training, that a model's outputs fit the targets.

        Args:
            outputs: what the model gives for any few examples.
            targets: all targets that will be met; for a language model all token ids, (L,).

        Raises:
            ValueError: outputs that are no real numbers or of another shape, targets of another form, or labels or
                token ids beyond the outputs.
        """
        if not outputs.is_floating_point():
            raise ValueError(f"the model's outputs are {outputs.dtype}: make them real numbers, logits or values")
        if self.dimensions and not self.fits(targets):
            raise ValueError(f"the targets are {targets.dtype} of shape {targets.shape}: a {self.name} has {self.form}")
        self.check_targets(targets, "the targets")
        self.check_outputs(outputs, targets)
