"""The library's own parts of Algorithm 2, joined as a run joins them, without network, files or configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from workloads import Workload

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.blocks import Block, Rank, own_shapes, plan_blocks, sent_shapes
from fedrac.algorithm.means import Cohort, Shares
from fedrac.algorithm.merge import effective_weights
from fedrac.algorithm.method import Method, RoundMethod
from fedrac.algorithm.round_means import round_means
from fedrac.algorithm.round_start import Sketches, Start, draw_sketches, start_of_round
from fedrac.algorithm.selection import draw_cohort
from fedrac.algorithm.server import Weighting, initial_state, shares
from fedrac.algorithm.server_step import advance
from fedrac.algorithm.sketch import Law, SketchSpec
from fedrac.algorithm.state import ServerState
from fedrac.protocol import ranked
from fedrac.protocol.coding import CodedRound
from fedrac.protocol.sparse import decode_start, encode_start
from fedrac.training.adapter import CohortAdapter
from fedrac.training.local import CohortResult, train_cohort
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import KnownWays, Shard, TrainingSetup
from fedrac.training.units import plan
from fedrac.training.watch import watch


@dataclass
class Federation:
    """A run of rounds.

    Attributes:
        shards: rows of each client; a client's id is its place.
        cohort: clients of a round; None: all.
        eta: eta' of the server.
    """

    workload: Workload
    shards: Sequence[Tensor]
    method: Method = field(default_factory=Method)
    local: LocalSpec = field(default_factory=LocalSpec)
    layers: Mapping[str, Rank] = field(default_factory=lambda: {"*": 2})
    alpha: float = 3.0
    law: Law = "popcount"
    cohort: int | None = None
    eta: float = 1.0
    weighting: Weighting = "uniform"
    seed: int = 0
    columns: int | None = None
    fixed: int = 0
    basis: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.workload.model
        fresh = self.columns - self.fixed if self.columns and self.fixed else 0
        sides = {"columns": self.columns, "basis": "random" if self.fixed else None, "fresh_columns": fresh}
        adapt = AdaptSpec(self.layers, self.workload.full, self.alpha, **sides)
        self.blocks: tuple[Block, ...] = plan_blocks(model, adapt, self.method)
        self.sketch = SketchSpec(self.law, self.seed)
        self.own: dict[int, dict[str, Tensor]] = {}  # by client, what stays with it
        self.ways = KnownWays()  # as a host keeps them: the model is looked at once
        start = {name: value.clone() for name, value in model.state_dict().items()}
        basis = {key: value for key, value in self.basis.items() if key in self._fixed()}
        self.state: ServerState = initial_state(start, self.blocks, self.method, self.sketch, basis)

    def sketches(self, round_: int) -> Sketches:
        return draw_sketches(self.blocks, self.method, self.sketch, round_, self.state.basis)

    def _fixed(self) -> set[str]:
        return {b.key(x) for b in self.blocks for x in "AB"}

    def start(self, round_: int) -> Start:
        values, dtype = self.sketches(round_).values, next(self.workload.model.parameters()).dtype
        carried, at = self.received(self.state).factors, self.method.at(round_)
        return start_of_round(self.blocks, at, values, carried, dtype, moments=self.state.moments)

    def received(self, state: ServerState) -> ServerState:
        """The state as clients get it."""
        if (sparse := self.method.densities) is None:
            return state
        coded, dtype = encode_start(state.factors, sparse.download), state.weights[self.blocks[0].name].dtype
        return replace(state, factors=decode_start(coded, self.blocks, self.method.at(1), sparse.download, dtype))

    def uploaded(self, clients: Sequence[int], found: CohortResult) -> CohortResult:
        """What the server gets of what the clients have found."""
        if self.method.densities is None:
            return found
        number, shapes = self.state.round + 1, {key: tuple(value.shape[1:]) for key, value in found.factors.items()}
        client, server = (
            CodedRound(self.seed, number, self.blocks, self.method.at(number), self.sketches(number).values, state)
            for state in (self.received(self.state), self.state)
        )
        coded, dtype = client.uploads(None).encode(clients, found.factors), next(iter(found.factors.values())).dtype
        return replace(found, factors=server.uploads(None).decode(clients, coded, shapes, dtype))

    def train(self, clients: Sequence[int], start: Start | None = None) -> CohortResult:
        """The clients' part of the next round."""
        work, round_ = self.workload, self.state.round + 1
        work.model.load_state_dict(self.state.weights)
        take = lambda i: (work.inputs[i], work.targets[i])  # noqa: E731
        problem = TrainingSetup(work.model, self.blocks, work.loss, take, self.ways)
        ranks = self.client_ranks(clients) or [None] * len(clients)
        chosen = [Shard(c, self.shards[c], rank, self.own.get(c, {})) for c, rank in zip(clients, ranks, strict=True)]
        return train_cohort(problem, start or self.start(round_), chosen, self.local, self.seed, round_)

    def client_ranks(self, clients: Sequence[int]) -> list[int] | None:
        """Of these clients, where they differ."""
        if not self.method.has_ranks:
            return None
        most = max(block.rank or 1 for block in self.blocks)
        now = self.state.ranks
        return [min(self.method.client_rank(c, self.seed) or most, most, now.get(c, most)) for c in clients]

    def adapter(self) -> CohortAdapter:
        """The model's layers with the clients' factors in them."""
        return adapter(self.workload.model, self.blocks, self.workload.inputs)

    def round(self) -> CohortResult:
        """One round; returns what the clients found."""
        number = self.state.round + 1
        clients = draw_cohort(range(len(self.shards)), self.cohort or len(self.shards), self.seed, number)
        found = self.train(clients)
        found = self._parted(clients, found)
        counted, lowered = self.pruned(clients, self.uploaded(clients, found))
        weights = shares(found.examples.tolist(), self.weighting)
        self.state = step(
            self.state,
            self.blocks,
            self.method.at(number),
            self.sketches(number).values,
            counted.factors,
            weights,
            self.eta,
            self.client_ranks(clients),
            found.losses.tolist(),
        )
        self.state = replace(self.state, ranks={**self.state.ranks, **lowered})
        return found

    def pruned(self, clients: Sequence[int], found: CohortResult) -> tuple[CohortResult, dict[int, int]]:
        """What counts of what the clients found, and who has a lower rank from now on."""
        if (ranks := self.client_ranks(clients)) is None or not self.method.has_own("ranks_after"):
            return found, {}
        by_client = dict(zip(clients, ranks, strict=True))
        lowered, factors = ranked.pruned(self.method, by_client, clients, self.state.factors, found.factors)
        return replace(found, factors=factors), lowered

    def _parted(self, clients: Sequence[int], found: CohortResult) -> CohortResult:
        """Keeps what stays with the clients; of controls that are sent, the change is among the factors then."""
        at, factors = self.method.at(self.state.round + 1), dict(found.factors)
        for key in own_shapes(self.blocks, at):
            new = factors[key] if self.method.is_personal(key) else factors.pop(key)
            for client, value in zip(clients, new, strict=True):
                before = self.own.setdefault(client, {}).get(key, torch.zeros_like(value))
                self.own[client][key] = value
                if (changed := f"{key.removesuffix('/control')}c") in sent_shapes(self.blocks, at):
                    factors.setdefault(changed, torch.zeros_like(new))[clients.index(client)] = value - before
        return replace(found, factors=factors)

    def weights(self) -> dict[str, Tensor]:
        """The model as it predicts."""
        sketches = self.sketches(max(self.state.round, 1)).values
        return effective_weights(self.received(self.state), self.blocks, sketches)


def adapter(model: nn.Module, blocks: Sequence[Block], inputs: Tensor) -> CohortAdapter:
    """An adapter of what the model does with ``inputs``."""
    seen = watch(model, blocks, {rows: partial(model, inputs[:rows]) for rows in (5, 3)})
    return CohortAdapter(model, blocks, plan(model, blocks, seen))


def step(
    state: ServerState,
    blocks: Sequence[Block],
    method: RoundMethod,
    sketches: Mapping[str, Tensor],
    stacked: Mapping[str, Tensor],
    weights: Shares,
    eta: float,
    ranks: Sequence[int] | None = None,
    losses: Sequence[float] = (),
) -> ServerState:
    """The state after a round in which the clients found ``stacked``: their mean, and the server step."""
    means = round_means(state, blocks, method, stacked, Cohort(weights, losses=losses, ranks=ranks))
    return advance(state, blocks, method, sketches, means, eta)


def predict(workload: Workload, weights: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Outputs of the dense model; of a tied parameter only the first name counts."""
    own = {name: weights[name] for name, _ in workload.model.named_parameters()}
    return torch.func.functional_call(workload.model, own, (workload.inputs[rows],))


def gradient(workload: Workload, weights: Mapping[str, Tensor], rows: Tensor, name: str) -> Tensor:
    """Gradient of the mean loss over ``rows`` with respect to the dense parameter ``name``."""
    leaf = weights[name].clone().requires_grad_()
    outputs = predict(workload, {**weights, name: leaf}, rows)
    (found,) = torch.autograd.grad(workload.loss(outputs, workload.targets[rows]).mean(), [leaf])
    return found
