"""Linear and logistic regression, in general: problems whose outputs are affine in everything that is trained.

All that the theorems of arXiv 2410.08305 ask of a problem (L, mu, f*, and the dissimilarities of its Assumption F.1)
follows from the Jacobian of the outputs, which is constant. `fedrac.theory.affine` makes such a problem of a
configuration.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fedrac.data import tasks


@dataclass(frozen=True, eq=False)
class Convex:
    """``f(w) = (1/M) sum_c (1/N) sum_i loss(offset_i + jacobian_i w, target_i) + 1/2 sum_j ridge_j w_j^2``.

    Attributes:
        task: the name of its loss: half the squared error, or the cross-entropy.
        jacobian: (M, N, k, p) float64, of the k outputs with respect to the p trained numbers w.
        offset: (M, N, k) float64.
        targets: (M, N) labels or (M, N, k) values.
        ridge: (p,) float64; the regularisation belongs to every component.
        start: (p,) float64, w before round 1.
    """

    task: str
    jacobian: Tensor
    offset: Tensor
    targets: Tensor
    ridge: Tensor
    start: Tensor

    @property
    def clients(self) -> int:
        """Number of clients, M."""
        return len(self.jacobian)

    @property
    def examples(self) -> int:
        """Of a client."""
        return self.jacobian.shape[1]

    @property
    def bend(self) -> float:
        """Largest curvature of the loss in the outputs: 1, or 1/2 for the cross-entropy."""
        return 1.0 if self.task == "regression" else 0.5

    def value(self, w: Tensor, clients: slice = slice(None)) -> float:
        """f at w (p,), or the mean of some clients' functions."""
        outputs = (self.jacobian[clients] @ w + self.offset[clients]).flatten(0, 1)
        loss = tasks.named(self.task).loss(outputs, self.targets[clients].flatten(0, 1))
        return float(loss.mean() + (self.ridge * w.square()).sum() / 2)

    def derivatives(self, w: Tensor, clients: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Gradient (p,) and Hessian (p, p) of the same."""
        j = self.jacobian[clients].flatten(0, 1)
        outputs, targets = j @ w + self.offset[clients].flatten(0, 1), self.targets[clients].flatten(0, 1)
        if self.task == "regression":
            slope, bent = outputs - targets, j
        else:
            p = outputs.softmax(1)
            slope = p - nn.functional.one_hot(targets, p.shape[1])
            bent = p.unsqueeze(2) * (j - (p.unsqueeze(1) @ j))  # (diag(p) - p p^T) J
        gradient = torch.einsum("nkp,nk->p", j, slope) / len(j) + self.ridge * w
        return gradient, torch.einsum("nkp,nkq->pq", j, bent) / len(j) + torch.diag(self.ridge)

    def minimise(self, clients: slice = slice(None)) -> Tensor:
        """A minimiser (p,) by Newton's method with halved steps; of least squares after one step."""
        w, value = self.start, self.value(self.start, clients)
        for _ in range(200):
            gradient, hessian = self.derivatives(w, clients)
            step = torch.linalg.pinv(hessian, hermitian=True) @ gradient
            size = 1.0
            while (lower := self.value(w - size * step, clients)) > value and size > 1e-6:
                size /= 2
            if not lower < value or float(gradient @ step) < 1e-28:
                return w
            w, value = w - size * step, lower
        return w

    @cached_property
    def minimiser(self) -> Tensor:
        """w*, (p,) float64."""
        return self.minimise()

    @cached_property
    def minimum(self) -> float:
        """f*."""
        return self.value(self.minimiser)

    @cached_property
    def convexity(self) -> float:
        """mu: strong convexity, or for least squares without ridge the Polyak-Lojasiewicz constant.

        Raises:
            ValueError: logistic regression without ridge has neither.
        """
        if self.task == "classification":
            if not float(self.ridge.min()) > 0:
                raise ValueError(
                    "logistic regression has no mu without ridge: set local.l2 > 0 and train weights only (a bias has "
                    "no ridge; model.bias=false)"
                )
            return float(self.ridge.min())
        values = torch.linalg.eigvalsh(self.derivatives(self.start)[1])
        return float(values[values > 1e-12 * values[-1]][0])

    def smoothness(self, of: str) -> float:
        """L of ``f``, of the worst ``client``, or of the worst ``example``: an upper bound, sharp for least squares."""
        j = self.jacobian
        if of == "example":
            largest = float(torch.linalg.eigvalsh(j @ j.mT)[..., -1].max())
        else:
            groups = [j.flatten(0, 2)] if of == "f" else [client.flatten(0, 1) for client in j]
            rows = len(groups[0]) // j.shape[2]
            largest = max(float(torch.linalg.eigvalsh(g.T @ g / rows)[-1]) for g in groups)
        return self.bend * largest + float(self.ridge.max())

    @cached_property
    def client_minima(self) -> Tensor:
        """``inf f_c``, (M,) float64."""
        ones = [slice(m, m + 1) for m in range(self.clients)]
        return torch.tensor([self.value(self.minimise(one), one) for one in ones], dtype=torch.float64)

    @property
    def between(self) -> float:
        """Delta*: ``f* - (1/M) sum_c inf f_c``, how much clients differ."""
        return max(self.minimum - float(self.client_minima.mean()), 0.0)

    @property
    def within(self) -> float:
        """sigma*: the same inside clients. For the cross-entropy an upper bound: a single loss is at least 0."""
        if self.task == "classification":
            return float(self.client_minima.mean())
        ridge = self.ridge.clamp_min(torch.finfo(torch.float64).tiny)
        values, vectors = torch.linalg.eigh((self.jacobian / ridge) @ self.jacobian.mT)  # J R^-1 J^T
        rest = (vectors.mT @ (self.targets - self.offset).unsqueeze(-1)).squeeze(-1)
        own = (rest.square() / (1 + values.clamp_min(0))).sum(-1) / 2
        return max(float(self.client_minima.mean() - own.mean()), 0.0)

    @property
    def noise(self) -> float:
        """zeta*^2: ``(1/M) sum_c ||grad f_c(w*)||^2``."""
        gradients = [self.derivatives(self.minimiser, slice(m, m + 1))[0] for m in range(self.clients)]
        return float(torch.stack(gradients).square().sum(1).mean())
