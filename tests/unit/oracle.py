"""Algorithm 2 and the rest of its family once more, as slowly and plainly as can be.

One client at a time; ``W + s B A`` is formed as a dense matrix; the server averages dense models. From the library
it takes the random draws (streams and sketches) and the plain settings, and none of the code that trains, adapts,
merges or averages.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from federation import Federation
from torch import Tensor, nn
from torch.func import functional_call
from workloads import Workload

from fedrac.algorithm.method import Method
from fedrac.algorithm.sketch import SketchSpec
from fedrac.algorithm.streams import Stream
from fedrac.training.optimizer import LocalSpec

Factors = dict[str, Tensor]  # "name:A", "name:B" or "name:D"


@dataclass
class Oracle:
    """A run; ``ranks`` says by parameter name which rank is trained, None for a parameter trained in full."""

    workload: Workload
    shards: Sequence[Tensor]
    ranks: Mapping[str, int | None]
    alpha: float
    method: Method
    sketch: SketchSpec
    local: LocalSpec
    cohort: int
    eta: float
    by_examples: bool
    round: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    carried: Factors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {name: p.detach().clone() for name, p in self.workload.model.named_parameters()}
        if not self.method.merge:
            self.carried = {key: f for key, f in self._first(1).items() if key[-1] in "AB"}

    def step(self) -> tuple[list[Factors], list[float]]:
        """One round: what the clients of its cohort found, in order of id."""
        self.round += 1
        order = Stream(self.sketch.seed, "cohort", self.round).permutation(len(self.shards))
        clients = sorted(int(c) for c in order[: self.cohort])
        found = [self._client(c) for c in clients]
        sizes = [len(self.shards[c]) if self.by_examples else 1 for c in clients]
        self._server([f for f, _ in found], [size / sum(sizes) for size in sizes])
        return [f for f, _ in found], [loss for _, loss in found]

    def model(self) -> dict[str, Tensor]:
        """The dense parameters with which the model predicts."""
        factors = {**self._zero(), **self._frozen(max(self.round, 1)), **self.carried}
        return self._dense(factors) if self.carried else self.weights

    # --- the clients --------------------------------------------------------------------------------------------

    def _client(self, client: int) -> tuple[Factors, float]:
        frozen = self._frozen(self.round)
        start = {**self._first(self.round), **self.carried}
        trained = {key: f.clone().requires_grad_() for key, f in start.items()}
        optimizer = self._optimizer(list(trained.values()))
        total, seen = 0.0, 0
        for rows in self._batches(client):
            dense = self._dense({**frozen, **trained})
            outputs = functional_call(self.workload.model, dense, (self.workload.inputs[rows],))
            loss = self.workload.loss(outputs, self.workload.targets[rows]).mean()
            total, seen = total + float(loss.detach()) * len(rows), seen + len(rows)
            matrices = [dense[name] for name in self.ranks if dense[name].ndim > 1]
            objective = loss + self.local.l2 / 2 * sum(w.square().sum() for w in matrices)
            distance = sum((f - start[key]).square().sum() for key, f in trained.items())
            objective = objective + self.method.prox / 2 * distance + self._linear(client, trained)
            gradients = torch.autograd.grad(objective, list(trained.values()))
            for (key, factor), g in zip(trained.items(), self._clipped(gradients), strict=True):
                factor.grad = self._theory(key, g, frozen) if self.local.precondition else g
            optimizer.step()
        return {key: f.detach() for key, f in trained.items()}, total / seen

    def _linear(self, client: int, trained: Factors) -> Tensor | float:
        """What else a client's objective has."""
        return 0.0

    def _batches(self, client: int) -> Iterator[Tensor]:
        rows, local = self.shards[client], self.local
        size = min(local.batch_size, len(rows))
        stream = Stream(self.sketch.seed, "order", self.round, client)
        if local.sampling == "replacement":
            steps = local.epochs * ((len(rows) + size - 1) // size)
            draws = stream.integers(len(rows), steps * size)
            yield from (rows[torch.from_numpy(draws[i * size : (i + 1) * size])] for i in range(steps))
            return
        for _ in range(local.epochs):
            if local.sampling == "full":
                yield rows
            else:
                yield from rows[torch.from_numpy(stream.permutation(len(rows)))].split(size)

    def _optimizer(self, factors: list[Tensor]) -> torch.optim.Optimizer:
        local = self.local
        if local.optimizer == "adamw":
            return torch.optim.AdamW(factors, local.lr, local.betas, local.eps, local.weight_decay)
        return torch.optim.SGD(factors, local.lr, local.momentum, weight_decay=local.weight_decay)

    def _clipped(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
        scale = 1.0 if self.local.clip is None else min(1.0, self.local.clip / norm)
        return [g * scale for g in gradients]

    def _theory(self, key: str, g: Tensor, frozen: Factors) -> Tensor:
        """``(B^T B)^-1 grad_A / s^2`` or ``grad_B (A A^T)^-1 / s^2``."""
        name, letter = key.rsplit(":", 1)
        if letter == "D":
            return g
        s = self.alpha / self.ranks[name]
        if letter == "A":
            b = frozen[f"{name}:B"]
            return torch.linalg.inv(b.mT @ b) @ g / s**2
        a = frozen[f"{name}:A"]
        return g @ torch.linalg.inv(a @ a.mT) / s**2

    # --- factors and dense weights ------------------------------------------------------------------------------

    def _fused(self, name: str) -> bool:
        """Whether a parameter is a stack of matrices, as a mixture's fused experts are."""
        return "experts" in name and self.weights[name].ndim == 3

    def _shape(self, name: str) -> tuple[int, int]:
        """Of a weight as a matrix, or of each of the matrices that a mixture's experts have."""
        m, *rest = self.weights[name].shape[1 if self._fused(name) else 0 :]
        return m, int(torch.Size(rest).numel())

    def _left(self, round_: int) -> bool:
        return round_ % 2 == 1 if self.method.side == "alternate" else self.method.side == "left"

    def _random(self, round_: int, name: str) -> Tensor:
        """The random factor; its row for an embedding's padding is zero, for that row must not move."""
        (m, n), rank = self._shape(name), self.ranks[name]
        side, number = "left" if self._left(round_) else "right", round_ if self.method.fresh else 1
        if self._fused(name):
            names = [f"{name}[{e}]" for e in range(len(self.weights[name]))]
            return torch.stack([self.sketch.draw(side, number, x, m, n, rank) for x in names])
        drawn = self.sketch.draw(side, number, name, m, n, rank)
        layer = self.workload.model.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and self._left(round_):
            drawn[layer.padding_idx] = 0.0
        return drawn

    def _zero(self) -> Factors:
        return {f"{n}:D": torch.zeros_like(self.weights[n]) for n, rank in self.ranks.items() if rank is None}

    def _frozen(self, round_: int) -> Factors:
        letter = "B" if self._left(round_) else "A"
        return {f"{n}:{letter}": self._random(round_, n) for n, rank in self.ranks.items() if rank is not None}

    def _first(self, round_: int) -> Factors:
        """Trained factors at the start of a round, if none is carried."""
        factors = self._zero()
        for name, rank in self.ranks.items():
            if rank is None:
                continue
            m, n = self._shape(name)
            several = self.weights[name].shape[:1] if self._fused(name) else ()
            shapes = {"A": (*several, rank, n), "B": (*several, m, rank)}
            zero = {letter: torch.zeros(shape, dtype=torch.float64) for letter, shape in shapes.items()}
            random, trained = ("B", "A") if self._left(round_) else ("A", "B")
            factors[f"{name}:{trained}"] = zero[trained]
            if self.method.train == "both":
                factors[f"{name}:{random}"] = self._random(round_, name)
        return factors

    def _update(self, name: str, factors: Mapping[str, Tensor]) -> Tensor:
        rank = self.ranks[name]
        if rank is None:
            return factors[f"{name}:D"]
        product = factors[f"{name}:B"] @ factors[f"{name}:A"]
        return (self.alpha / rank * product).reshape(self.weights[name].shape)

    def _dense(self, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**self.weights, **{n: self.weights[n] + self._update(n, factors) for n in self.ranks}}

    # --- the server ---------------------------------------------------------------------------------------------

    def _server(self, found: list[Factors], shares: list[float]) -> None:
        frozen = self._frozen(self.round)
        models = [self._dense({**frozen, **f}) for f in found]
        before = self.model()
        mean = {key: sum(p * f[key] for p, f in zip(shares, found, strict=True)) for key in found[0]}
        for key, old in self.carried.items():
            self.carried[key] = old + self.eta * (mean[key] - old)
        after = {**self._zero(), **frozen, **self.carried}
        new = dict(self.weights)
        for name, rank in self.ranks.items():
            w = self.weights[name]
            if rank is None or self.method.average == "products":  # the mean of the clients' models
                target = sum(p * model[name] for p, model in zip(shares, models, strict=True))
                new[name] = before[name] + self.eta * (target - before[name])
                if rank is not None and not self.method.merge:  # less what is carried on
                    new[name] = new[name] - self._update(name, after)
            elif self.method.merge:
                new[name] = w + self.eta * self._update(name, {**frozen, **mean})
        self.weights = new


def agree(federation: Federation, oracle: Oracle, rounds: int, tolerance: float = 1e-9) -> None:
    """Runs both: the clients' factors and losses, and the models, are the same after every round, and all moved."""
    near = {"rtol": tolerance, "atol": tolerance}
    begin = federation.weights()
    for _ in range(rounds):
        found = federation.round()
        factors, losses = oracle.step()
        assert set(found.factors) == set(factors[0])
        for key, stacked in found.factors.items():
            torch.testing.assert_close(stacked, torch.stack([each[key] for each in factors]), **near)
        torch.testing.assert_close(found.losses, torch.tensor(losses, dtype=torch.float64), **near)
        model = federation.weights()
        for name, expected in oracle.model().items():
            torch.testing.assert_close(model[name], expected, **near)
    for block in federation.blocks:
        assert not torch.equal(model[block.name], begin[block.name]), f"{block.name} never moved"
