"""Server optimizers: what the server makes of a round's mean update (FedOpt, arXiv 2003.00295).

The mean update of a round, ``Delta = mean of clients' models - model``, stands in the place of a negative gradient. A
moment is as large as what it belongs to: a weight (m, ...), for methods that merge, or a carried factor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

OptimizerName = Literal["momentum", "adam", "yogi"]


@dataclass(frozen=True)
class ServerOptimizer:
    """How the server steps.

    ============  =====================================================  ==========================
    name          moments                                                step, times ``eta' * lr``
    ============  =====================================================  ==========================
    ``momentum``  ``m = beta1 m + Delta`` (FedAvgM, arXiv 1909.06335)    ``m``
    ``adam``      ``m = beta1 m + (1 - beta1) Delta``,                   ``m / (sqrt(v) + tau)``
                  ``v = beta2 v + (1 - beta2) Delta^2``
    ``yogi``      ``m`` as of Adam,                                      as of Adam
                  ``v = v - (1 - beta2) Delta^2 sign(v - Delta^2)``
    ============  =====================================================  ==========================

    All operations are entry by entry. As published there is no correction of bias; m starts at 0 and v at tau^2, the
    least value that the paper allows.

    Attributes:
        name: which one.
        lr: multiplies the server's step eta'.
        beta1, beta2: how much of m and of v stays, in [0, 1).
        tau: how adaptive Adam and Yogi are: the smaller, the more.

    Raises:
        ValueError: a value is out of its range.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a misspelt key is an error

    name: OptimizerName
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        known = get_args(OptimizerName)
        checks = (
            ("name", self.name in known, f"is unknown: choose one of {', '.join(known)}, or method.optimizer=null"),
            ("lr", 0 < self.lr < math.inf, "must be positive and finite"),
            ("beta1", 0 <= self.beta1 < 1, "must lie in [0, 1)"),
            ("beta2", 0 <= self.beta2 < 1, "must lie in [0, 1)"),
            ("tau", 0 < self.tau < math.inf, "must be positive and finite"),
        )
        for name, holds, rule in checks:
            if not holds:
                raise ValueError(f"method.optimizer.{name}={getattr(self, name)!r} {rule}")

    def step(self, key: str, update: Tensor, moments: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The step for eta' = 1, and the moments after it.

        The roots are NumPy's, which are rounded as IEEE 754 says: the same bits on every machine.

        Args:
            key: of what is updated.
            update: Delta, in the master dtype.
            moments: ``key/m`` and ``key/v``; those that are missing start here.
        """
        m = moments.get(f"{key}/m", torch.zeros_like(update))
        if self.name == "momentum":
            m = self.beta1 * m + update
            return self.lr * m, {f"{key}/m": m}
        v = moments.get(f"{key}/v", torch.full_like(update, self.tau**2))
        m = self.beta1 * m + (1 - self.beta1) * update
        square = update * update
        if self.name == "adam":
            v = self.beta2 * v + (1 - self.beta2) * square
        else:
            v = v - (1 - self.beta2) * square * torch.sign(v - square)
        root = torch.from_numpy(np.sqrt(v.numpy()))
        return self.lr * m / (root + self.tau), {f"{key}/m": m, f"{key}/v": v}
