"""Local optimizers over stacked factors: one step of ``torch.optim`` steps all clients of a cohort at once.

SGD and AdamW work element by element, so on factors with a cohort axis they do for each client what they would do
for it alone. Their state is new every round: the old moments belong to another random basis. They are called as
functions: the bookkeeping of an ``Optimizer`` object takes longer than a step of small factors.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Sampling = Literal["rr", "replacement", "full"]
OptimizerName = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class LocalSpec:
    """How a client trains in one round.

    Attributes:
        optimizer: ``sgd``, ``adamw``, as in ``torch.optim``.
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
        logit_adjustment: strength of `fedrac.training.logit_adjustment`, for one label an example; 0: none.
        clip: bound on the norm of one client's gradient over all its factors; None: no clipping.
        max_tokens: bound on the tokens of one pass through a model, padding included; on the rows of what has no
            length. None: as many as memory allows, see `fedrac.training.memory`.

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
    logit_adjustment: float = 0.0
    clip: float | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        known = get_args(OptimizerName)
        checks = (
            ("optimizer", self.optimizer in known, f"is unknown: choose {' or '.join(known)}"),
            ("sampling", self.sampling in get_args(Sampling), "is unknown: choose rr, replacement or full"),
            ("lr", 0 < self.lr < math.inf, "must be positive and finite"),
            ("epochs", self.epochs >= 1, "must be at least 1"),
            ("batch_size", self.batch_size >= 1, "must be at least 1"),
            ("momentum", 0 <= self.momentum < 1, "must lie in [0, 1)"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "must lie in [0, 1)"),
            ("eps", 0 < self.eps < math.inf, "must be positive and finite"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "must not be negative, nor infinite"),
            ("l2", 0 <= self.l2 < math.inf, "must not be negative, nor infinite"),
            ("logit_adjustment", 0 <= self.logit_adjustment < math.inf, "must not be negative, nor infinite"),
            ("clip", self.clip is None or 0 < self.clip < math.inf, "must be positive and finite, or null for none"),
            (
                "max_tokens",
                self.max_tokens is None or self.max_tokens >= 1,
                "must be at least 1, or null",
            ),
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
    """Steps of factors (C, ...), of which the first k clients still train.

    Args:
        factors: by key, (C, ...): they are updated in place.
        spec: the optimizer and its settings.
    """

    def __init__(self, factors: Mapping[str, Tensor], spec: LocalSpec) -> None:
        self._parameters = {key: value.detach().requires_grad_() for key, value in factors.items()}
        values = list(self._parameters.values())
        common: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay, "maximize": False}
        self._update, moments, self._rest = _OPTIMIZERS[spec.optimizer](spec, values, common)
        self._moments = [[torch.zeros_like(value) for value in factors.values()] for _ in range(moments)]

    def narrow(self, clients: int) -> dict[str, Tensor]:
        """The factors (k, ...) of the clients that still train; the others keep their value from now on."""
        if clients < len(next(iter(self._parameters.values()))):
            self._parameters = {k: v[:clients].detach().requires_grad_() for k, v in self._parameters.items()}
            self._moments = [[moment[:clients] for moment in kind] for kind in self._moments]
        return dict(self._parameters)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One step of every client that still trains; ``gradients`` by key, (k, ...)."""
        values = list(self._parameters.values())
        own = [gradients[key].contiguous() for key in self._parameters]  # fused kernels go through memory, not strides
        self._update(values, own, *self._moments, *self._rest)


# An optimizer is a function of ``torch.optim`` on lists (factors, gradients, moments ..., the rest); how many moments
# it keeps, each of a factor's shape (C, ...); and the rest of its lists, which have no cohort axis. ``common`` is what
# every such function takes: lr, weight_decay, maximize.
_Stacked = tuple[Callable[..., None], int, tuple[list[Any], ...]]


def _sgd(spec: LocalSpec, values: list[Tensor], common: dict[str, Any]) -> _Stacked:
    update = partial(sgd, momentum=spec.momentum, dampening=0.0, nesterov=False, fused=_fused(values), **common)
    return (update, 1, ()) if spec.momentum else (update, 0, ([None] * len(values),))


def _adamw(spec: LocalSpec, values: list[Tensor], common: dict[str, Any]) -> _Stacked:
    beta1, beta2 = spec.betas
    update = partial(adamw, beta1=beta1, beta2=beta2, eps=spec.eps, amsgrad=False, fused=_fused(values), **common)
    return update, 2, ([], _steps(values))


def _fused(values: list[Tensor]) -> bool:
    """One kernel for all factors instead of several each, where there is one."""
    return values[0].device.type in ("cpu", "cuda")


def _steps(values: list[Tensor]) -> list[Tensor]:
    """How many steps were taken, as ``torch.optim`` counts them: one number a factor."""
    return [torch.zeros((), device=value.device) for value in values]


_OPTIMIZERS: dict[OptimizerName, Callable[[LocalSpec, list[Tensor], dict[str, Any]], _Stacked]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}
