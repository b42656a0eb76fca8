"""Methods that hold every client's gradient straight with something that the client keeps: SCAFFOLD and FedDyn.

A client has a control for every factor that it trains, in the factor's shape, at first zero. What follows from it is
added to the factor's gradient at every step of the round, before it is clipped; after the round the control is made
anew, and stays with the client.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedrac.algorithm.means import Cohort
from fedrac.algorithm.method import Method, Train


@dataclass(frozen=True)
class Controlled(Method):
    """A method with controls, in the space of the factors; so they are for a sketch that stays, or full matrices.

    Attributes:
        participation: share of the clients that take part in a round, ``cohort.size`` of all.
        sends_controls: of a class: also the change of its control is sent by a client, and its mean carried on by the
            server.
    """

    train: Train = "full"
    participation: float = 1.0
    keeps_controls = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.participation <= 1:
            raise ValueError(
                f"method.participation={self.participation} must lie in (0, 1]: cohort.size of all clients"
            )
        if self.train != "full" and (self.fresh or len(self.sides) > 1 or self.average == "products"):
            raise ValueError(
                f"{self.name}: a client's control belongs to one sketch: set method.fresh=false, one method.side and "
                "method.average=factors, or method.train=full"
            )
        if self.has_ranks or self.personal:
            raise ValueError(f"{self.name} goes neither with method.ranks nor with method.personal")

    def correction(self, own: Tensor, shared: Tensor) -> Tensor:
        """What is added to the gradient of a factor, (C, ...).

        Args:
            own: the clients' controls, (C, ...).
            shared: the server's, (...): the mean of all clients' controls, where they are sent; else zero.
        """
        raise NotImplementedError

    def control(self, own: Tensor, shared: Tensor, moved: Tensor, way: Tensor) -> Tensor:
        """The clients' new controls, (C, ...).

        Args:
            own, shared: as of `correction`.
            moved: how far the factor went in the round, (C, ...).
            way: local steps times learning rate, (C, 1, ...).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Scaffold(Controlled):
    """SCAFFOLD (arXiv 1910.06378), option II: ``c_i = c_i - c + (x - y_i) / (K lr)``, and c the mean of all c_i.

    With plain SGD a new control is the mean of the gradients that the client has seen on its way. A client makes the
    steps that its data take: K is its own.
    """

    sends_controls = True

    def correction(self, own: Tensor, shared: Tensor) -> Tensor:
        """``c - c_i``."""
        return shared - own

    def control(self, own: Tensor, shared: Tensor, moved: Tensor, way: Tensor) -> Tensor:
        """``c_i - c + (x - y_i) / (K lr)``."""
        return own - shared - moved / way

    def mean(self, factors: Mapping[str, Tensor], cohort: Cohort) -> dict[str, Tensor]:
        """As of `Method`; of changes of controls, the change of the mean of all clients' controls."""
        found = super().mean(factors, cohort)
        return {x: mean * self.participation if x.endswith("c") else mean for x, mean in found.items()}


@dataclass(frozen=True)
class FedDyn(Controlled):
    """FedDyn (arXiv 2111.04263): ``prox`` is its alpha; the control is ``h_i``, the gradient where the client stopped.

    The client's objective is ``f_i(x) - <h_i, x> + alpha/2 |x - x_0|^2``; the server has the mean h of all h_i as a
    moment, and goes to the mean of the clients' models less ``h / alpha``.
    """

    prox: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prox:
            raise ValueError("method.prox=0 is the alpha of FedDyn, which must be positive")

    def correction(self, own: Tensor, shared: Tensor) -> Tensor:
        """``-h_i``."""
        return -own

    def control(self, own: Tensor, shared: Tensor, moved: Tensor, way: Tensor) -> Tensor:
        """``h_i - alpha (x_i - x_0)``."""
        return own - self.prox * moved

    def step(self, key: str, update: Tensor, moments: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """``Delta - h / alpha`` with ``h = h - alpha participation Delta``."""
        h = moments.get(f"{key}/h", torch.zeros_like(update)) - (self.prox * self.participation) * update
        return update - h / self.prox, {f"{key}/h": h}
