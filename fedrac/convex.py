"""Convex problems: those whose outputs are affine in everything that is trained, and what the theorems ask of them.

Linear and logistic regression are such problems, also on the features of a frozen network. All numbers of the theorems
of arXiv 2410.08305 (L, mu, f*, and the dissimilarities of its Assumption F.1) then follow from the Jacobian of the
outputs, which is constant.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from fedrac import data, models, partition, task
from fedrac.blocks import Block, plan_blocks
from fedrac.data.tokens import Tokens
from fedrac.experiment import Experiment
from fedrac.pretrain import initial_weights

_MOST = 10**8  # entries of the Jacobian: 800 MB


@dataclass(frozen=True, eq=False)
class Convex:
    """``f(w) = (1/M) sum_m (1/N) sum_i loss(offset_i + jacobian_i w, target_i) + 1/2 sum_j ridge_j w_j^2``.

    Attributes:
        task: its loss: half the squared error, or the cross-entropy.
        jacobian: (M, N, k, p) float64, of the k outputs with respect to the p trained numbers w.
        offset: (M, N, k) float64.
        targets: (M, N) labels or (M, N, k) values.
        ridge: (p,) float64; the regularisation belongs to every component.
        start: (p,) float64, w before round 1.
    """

    task: data.Task
    jacobian: Tensor
    offset: Tensor
    targets: Tensor
    ridge: Tensor
    start: Tensor

    @property
    def clients(self) -> int:
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
        loss = task.loss(self.task, outputs, self.targets[clients].flatten(0, 1))
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
        """``inf f_m``, (M,) float64."""
        ones = [slice(m, m + 1) for m in range(self.clients)]
        return torch.tensor([self.value(self.minimise(one), one) for one in ones], dtype=torch.float64)

    @property
    def between(self) -> float:
        """Delta*: ``f* - (1/M) sum_m inf f_m``, how much clients differ."""
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
        """zeta*^2: ``(1/M) sum_m ||grad f_m(w*)||^2``."""
        gradients = [self.derivatives(self.minimiser, slice(m, m + 1))[0] for m in range(self.clients)]
        return float(torch.stack(gradients).square().sum(1).mean())


Outputs = Callable[[Tensor, Tensor], Tensor]


def convex(experiment: Experiment) -> Convex:
    """The problem of a configuration.

    Raises:
        ValueError: it is not convex in this sense, clients have different numbers of examples, or it is too large.
    """
    examples = data.load(experiment.data)
    model = models.build(experiment.model, experiment.seed).double().eval().requires_grad_(False)
    model.load_state_dict({name: value.double() for name, value in initial_weights(experiment).items()})
    blocks = plan_blocks(model, experiment.adapt, experiment.method)
    outputs, start = _outputs(model, blocks)
    _check_affine(outputs, start, _inputs(examples.train.take(np.arange(min(len(examples.train), 8)))))
    parts = partition.make(experiment.partition, examples, experiment.seed)
    if len(set(parts.sizes.tolist())) > 1:
        raise ValueError(
            f"clients have {parts.sizes.min()} to {parts.sizes.max()} examples; the theorems are for clients of one "
            "size: e.g. partition=iid with partition.clients a divisor of the number of examples"
        )
    train = examples.train.take(parts.index)
    inputs, targets = _inputs(train), torch.tensor(train.targets)
    jacobian = _jacobian(outputs, start, inputs)
    offset = outputs(start, inputs) - jacobian @ start
    l2 = [
        torch.full((math.prod(b.shape),), experiment.local.l2 * (len(b.shape) > 1), dtype=torch.float64) for b in blocks
    ]

    def by_client(part: Tensor) -> Tensor:
        return part.reshape(parts.clients, -1, *part.shape[1:])

    targets = targets.double() if examples.task == "regression" else targets
    return Convex(examples.task, by_client(jacobian), by_client(offset), by_client(targets), torch.cat(l2), start)


def _inputs(examples: data.Examples) -> Tensor:
    if isinstance(examples.inputs, Tokens):
        raise ValueError("the theorems' constants are known for convex problems only, not for language models")
    return torch.from_numpy(examples.inputs).double()


def _outputs(model: nn.Module, blocks: Sequence[Block]) -> tuple[Outputs, Tensor]:
    """The model's outputs (rows, k) as a function of the trained numbers (p,) and inputs; the numbers as they are."""
    parameters = {block.name: model.get_parameter(block.name) for block in blocks}

    def outputs(w: Tensor, x: Tensor) -> Tensor:
        parts = torch.split(w, [value.numel() for value in parameters.values()])
        own = {n: part.reshape(v.shape) for part, (n, v) in zip(parts, parameters.items(), strict=True)}
        result: Tensor = functional_call(model, own, (x,))
        return result

    return outputs, torch.cat([value.flatten() for value in parameters.values()])


def _check_affine(outputs: Outputs, start: Tensor, inputs: Tensor) -> None:
    """The middle between two points has the middle of their outputs."""
    away = torch.linspace(-3, 3, len(start), dtype=torch.float64)
    ends = outputs(start, inputs), outputs(away, inputs)
    error = (outputs((start + away) / 2, inputs) - (ends[0] + ends[1]) / 2).abs().max()
    if not error <= 1e-9 * (1 + max(float(end.abs().max()) for end in ends)):
        raise ValueError(
            "the theorems' constants are known for convex problems only, and here the outputs are not affine in what "
            "is trained (several layers?): use model=linear, or train the last layer alone "
            "('adapt.layers={*: frozen, LAST: 1}'); for other models step sizes have to be tried"
        )


def _jacobian(outputs: Outputs, start: Tensor, inputs: Tensor) -> Tensor:
    """(rows, k, p)."""
    entries = len(inputs) * outputs(start, inputs[:1]).shape[1] * len(start)
    if entries > _MOST:
        raise ValueError(
            f"{len(inputs)} examples and {len(start)} trained numbers: their Jacobian has {entries:.1e} entries, the "
            f"most is {_MOST:.0e}; use fewer examples, or a smaller model"
        )
    one = jacrev(lambda w, x: outputs(w, x.unsqueeze(0))[0])
    found: Tensor = vmap(one, (None, 0), chunk_size=256)(start, inputs)
    return found
