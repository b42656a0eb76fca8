"""Local optimizers over stacked factors: one ``torch.optim`` optimizer steps all clients of a cohort at once.

SGD and AdamW work element by element, so on factors with a cohort axis they do for each client what they would do
for it alone. Their state is new every round: the old moments belong to another random basis.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Sampling = Literal["rr", "replacement", "full"]
OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class LocalSpec:
    """How a client trains in one round.

    Attributes:
        optimizer: ``sgd`` or ``adamw``, as in ``torch.optim``.
        lr: learning rate of this round; with ``precondition`` it is the step size gamma in the space of W.
        epochs: passes over the client's data.
        batch_size: rows of a mini-batch; the last one of an epoch may be short.
        sampling: ``rr`` (random reshuffling: every example once an epoch, a fresh order each), ``replacement``
            (as many steps, examples drawn with replacement), ``full`` (one step an epoch, all examples).
        precondition: multiply the gradient by the inverse Gram matrix of the sketch, so that SGD makes the
            projected step ``W - gamma H G`` of the theory (section 4 of arXiv 2410.08305).
        momentum: of ``sgd``.
        betas, eps: of ``adamw``.
        weight_decay: of the optimizer, acting on the factors: it shrinks the round's update, not W.
        l2: the objective has ``l2/2 ||W + s B A||^2`` for every adapted weight.
        clip: bound on the norm of one client's gradient over all its factors; None: no clipping.
        max_rows: bound on the rows of one step of a cohort; a larger cohort is cut into chunks.

    Raises:
        ValueError: a value is out of its range.
    """

    optimizer: OptimizerName = "sgd"
    lr: float = 0.1
    epochs: int = 1
    batch_size: int = 32
    sampling: Sampling = "rr"
    precondition: bool = False
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    l2: float = 0.0
    clip: float | None = None
    max_rows: int = 16384

    def __post_init__(self) -> None:
        checks = (
            ("optimizer", self.optimizer in get_args(OptimizerName), "is unknown: choose sgd or adamw"),
            ("sampling", self.sampling in get_args(Sampling), "is unknown: choose rr, replacement or full"),
            ("lr", 0 < self.lr < math.inf, "must be positive"),
            ("epochs", self.epochs >= 1, "must be at least 1"),
            ("batch_size", self.batch_size >= 1, "must be at least 1"),
            ("momentum", 0 <= self.momentum < 1, "must lie in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "must not be negative"),
            ("l2", self.l2 >= 0, "must not be negative"),
            ("clip", self.clip is None or self.clip > 0, "must be positive, or null for none"),
            ("max_rows", self.max_rows >= 1, "must be at least 1"),
        )
        for name, holds, rule in checks:
            if not holds:
                raise ValueError(f"local.{name}={getattr(self, name)!r} {rule}")
        if self.precondition and self.optimizer != "sgd":
            raise ValueError(
                "local.precondition=true is the theory step, which is SGD: set local.optimizer=sgd, or local=theory"
            )

    def rows_per_step(self, size: int) -> int:
        """Rows that a client with ``size`` examples takes up in one step of a cohort, padding included."""
        return size if self.sampling == "full" else self.batch_size

    def steps(self, size: int) -> int:
        """Local steps of a client with ``size`` examples: K of Algorithm 2."""
        return self.epochs * -(-size // min(size, self.rows_per_step(size)))


class StackedOptimizer:
    """A ``torch.optim`` optimizer over factors (C, ...), of which the first k clients still train.

    Args:
        factors: by key, (C, ...): they are updated in place.
        spec: the optimizer and its settings.
    """

    def __init__(self, factors: Mapping[str, Tensor], spec: LocalSpec) -> None:
        self._parameters = {key: value.detach().requires_grad_() for key, value in factors.items()}
        values = list(self._parameters.values())
        fused = values[0].device.type in ("cpu", "cuda")  # one kernel for all factors instead of several each
        self._optimizer: torch.optim.Optimizer
        if spec.optimizer == "sgd":
            self._optimizer = torch.optim.SGD(
                values, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=fused
            )
        else:
            self._optimizer = torch.optim.AdamW(
                values, lr=spec.lr, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay, fused=fused
            )

    def narrow(self, clients: int) -> dict[str, Tensor]:
        """The factors (k, ...) of the clients that still train; the others keep their value from now on."""
        if clients < len(next(iter(self._parameters.values()))):
            for key, old in self._parameters.items():
                self._parameters[key] = self._replace(old, old[:clients].detach().requires_grad_())
            self._optimizer.param_groups[0]["params"] = list(self._parameters.values())
        return dict(self._parameters)

    def _replace(self, old: Tensor, new: Tensor) -> Tensor:
        state = self._optimizer.state.pop(old, {})
        stacked = {k: v for k, v in state.items() if torch.is_tensor(v) and v.shape == old.shape}
        self._optimizer.state[new] = {**state, **{k: v[: len(new)] for k, v in stacked.items()}}
        return new

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One step of every client that still trains."""
        for key, parameter in self._parameters.items():
            parameter.grad = gradients[key].contiguous()  # the fused kernels go through memory, not strides
        self._optimizer.step()
