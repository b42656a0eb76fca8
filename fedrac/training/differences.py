"""In what the clients of a cohort differ, besides their data: rank, what they go on from, what holds them straight."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedrac.algorithm import returned
from fedrac.algorithm.client_ranks import trained_parts
from fedrac.algorithm.method import Method
from fedrac.algorithm.round_start import Start
from fedrac.training.gradients import ranked_gram_inverse
from fedrac.training.setup import Shard, TrainingSetup


class Differences:
    """Of the clients of a chunk, of which the first k still train.

    Args:
        problem: what they train on.
        start: where the round starts for all.
        shards: the clients; all have a rank of their own, or none has.
        factors: by `Block.key`, (C, ...), the start for each; every client's own is put in its place.
    """

    def __init__(
        self, problem: TrainingSetup, start: Start, shards: Sequence[Shard], factors: Mapping[str, Tensor]
    ) -> None:
        self._start, device = start, next(iter(factors.values())).device
        self._letters = {block.name: [x for x in "ABZD" if block.key(x) in factors] for block in problem.blocks}
        self._controls = {key: torch.zeros_like(factors[key]) for key in start.shared}
        own = {**factors, **{f"{key}/control": value for key, value in self._controls.items()}}
        for place, shard in enumerate(shards):
            for key, value in shard.own.items():
                own[key][place] = value.to(device)
        some = any(shard.own for shard in shards)
        self._begin = {key: value.clone() for key, value in factors.items()} if some and start.prox else {}
        self._added: dict[str, Tensor] = {}
        if start.method is not None:
            self._added = {k: start.method.correction(self._controls[k], c) for k, c in start.shared.items()}
        self._parts: dict[str, Tensor] = {}
        self._inverses: dict[str, Tensor] = {}
        self._ranks = ranks = [shard.rank for shard in shards if shard.rank is not None]
        if ranks:
            shapes = {key: tuple(value.shape) for key, value in start.trained.items()}
            self._parts = {key: part.to(device) for key, part in trained_parts(shapes, ranks).items()}
            if start.gram_inverse:
                self._inverses = ranked_gram_inverse(problem.blocks, start.frozen, ranks)
        for key, part in self._parts.items():
            factors[key].mul_(part)

    def begin(self, clients: int) -> Mapping[str, Tensor]:
        """By `Block.key`, where the first k clients began: (k, ...), or (...) where that is the same for all."""
        return {key: value[:clients] for key, value in self._begin.items()} or self._start.trained

    def straighten(self, gradients: dict[str, Tensor], factors: Mapping[str, Tensor]) -> None:
        """Adds what follows from the clients' controls and the method, and leaves out what they do not train.

        Args:
            gradients: by `Block.key`, (k, ...), of the first k clients; its entries are replaced.
            factors: where they are, likewise.
        """
        if self._start.objective is not None:
            self._add(gradients, factors, self._start.objective)
        for key, added in self._added.items():
            gradients[key] = gradients[key] + added[: len(gradients[key])]
        for key, part in self._parts.items():
            gradients[key] = gradients[key] * part[: len(gradients[key])]

    def _add(self, gradients: dict[str, Tensor], factors: Mapping[str, Tensor], method: Method) -> None:
        """The gradient of what the method adds to the clients' objective."""
        clients = len(next(iter(gradients.values())))
        ranks = self._ranks[:clients] or None
        for name, letters in self._letters.items():
            mine = {x: factors[f"{name}:{x}"] for x in letters}
            added = returned.of_local_gradient(method, name, method.local_gradient(mine, ranks), mine)
            for letter, value in added.items():
                gradients[f"{name}:{letter}"] = gradients[f"{name}:{letter}"] + value

    def gram_inverse(self, clients: int) -> Mapping[str, Tensor]:
        """By `Block.sketch_key`, (k, ..., r, r) of each client's part of the sketch, or (..., r, r) for all."""
        return {key: value[:clients] for key, value in self._inverses.items()} or self._start.gram_inverse

    def controls(self, factors: Mapping[str, Tensor], way: Tensor) -> dict[str, Tensor]:
        """The clients' new controls (C, ...) under ``KEY/control``.

        Args:
            factors: after the round, (C, ...).
            way: local steps times learning rate, (C,).
        """
        found: dict[str, Tensor] = {}
        if (method := self._start.method) is None:
            return found
        for key, shared in self._start.shared.items():
            moved = factors[key].detach() - self._start.trained[key]
            each = way.to(moved).view(-1, *[1] * (moved.ndim - 1))
            found[f"{key}/control"] = method.control(self._controls[key], shared, moved, each)
        return found
