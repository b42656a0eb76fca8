"""What is timed: data, model, clients and cohort of every workload. All sides read them here.

python -m benchmarks.workloads W1 W3      # makes data and partitions, so that no timed process has to
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import texts
from benchmarks.encoder import Encoder
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.selection import draw_cohort
from fedrac.algorithm.streams import Index
from fedrac.data import Data, Examples
from fedrac.data.store import stored
from fedrac.models.dense import mlp
from fedrac.training.optimizer import LocalSpec

SEED = 1
CLASSES = 10
MODELS = {"mlp": mlp, "encoder": Encoder}


@dataclass(frozen=True)
class Workload:
    """One piece of work.

    Attributes:
        name: of the workload.
        clients, examples: how many, of all clients together.
        cohort: clients a round.
        alpha: of the Dirichlet distribution that divides each class among clients; None: equal clients.
        model: kind and shape.
        layers: which layers are adapted, and at which rank.
        tokens, vocabulary: inputs are so many ids below ``vocabulary``; 0: 784 numbers.
        reviews: inputs are texts as long as film reviews are (`benchmarks.texts`), ``tokens`` the longest.
        local: the clients' optimizer.
    """

    name: str
    clients: int = 1000
    examples: int = 60_000
    cohort: int = 50
    alpha: float | None = None
    model: Mapping[str, Any] = field(default_factory=lambda: {"kind": "mlp", "hidden": [64, 64], "outputs": CLASSES})
    layers: Mapping[str, int | str] = field(default_factory=lambda: {"*": 1})
    tokens: int = 0
    vocabulary: int = 0
    reviews: bool = False
    local: LocalSpec = field(default_factory=lambda: LocalSpec("sgd", lr=0.002, batch_size=10))

    @property
    def adapt(self) -> AdaptSpec:
        return AdaptSpec(self.layers)

    @property
    def data_spec(self) -> dict[str, Any]:
        """What `fedrac.data.load` takes."""
        names = ("clients", "examples", "alpha", "tokens", "vocabulary", "reviews")
        return {"_target_": "benchmarks.workloads.make_data", **{name: getattr(self, name) for name in names}}

    def spec(self, device: str) -> dict[str, Any]:
        """The workload as fedrac's hosts read it."""
        model = {"_target_": "benchmarks.workloads.make_model", **self.model}
        common = {"seed": SEED, "dtype": "float32", "device": device}
        return {"data": self.data_spec, "partition": {"scheme": "natural"}, "model": model, **common}

    def build(self) -> nn.Module:
        """The model with its initial weights, the same in every process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return make_model(**self.model)

    @cached_property
    def data(self) -> Data:
        return make_data(**{k: v for k, v in self.data_spec.items() if k != "_target_"})

    @cached_property
    def shards(self) -> list[Index]:
        """The examples of every client, ascending."""
        groups = self.data.train.groups
        return np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups, minlength=self.clients))[:-1])

    def cohort_of(self, round_: int) -> list[int]:
        """The clients of a round; fedrac draws the same."""
        return draw_cohort(np.arange(self.clients), self.cohort, SEED, round_)

    def examples_in(self, round_: int) -> int:
        """How many examples the clients of a round have."""
        return sum(len(self.shards[client]) for client in self.cohort_of(round_))


def make_model(kind: str, **shape: Any) -> nn.Module:
    """``mlp`` or ``encoder``."""
    return MODELS[kind](**shape)


def make_data(
    clients: int, examples: int, alpha: float | None, tokens: int, vocabulary: int, reviews: bool = False
) -> Data:
    """Random inputs and labels, with the client of every example; mapped from fedrac's cache."""
    arguments = {name: value for name, value in locals().items() if name != "reviews" or reviews}

    def build() -> tuple[Examples, Examples, int]:
        rng = np.random.default_rng(SEED)
        shape = (examples, tokens or 784)
        inputs = rng.integers(vocabulary, size=shape) if tokens else rng.random(shape, dtype=np.float32)
        targets = rng.integers(CLASSES, size=examples)
        owners = (
            rng.permutation(np.arange(examples) % clients) if alpha is None else _skewed(rng, targets, clients, alpha)
        )
        if reviews:
            train = Examples(texts.reviews(examples, vocabulary, rng), targets, owners)
        else:
            train = Examples(inputs.astype(np.float32, copy=False), targets, owners)
        return train, train.take(np.arange(CLASSES)), CLASSES

    return stored("benchmarks", arguments, "classification", build)


def _skewed(rng: np.random.Generator, targets: Index, clients: int, alpha: float) -> Index:
    """Owners: each class in proportions from Dirichlet(alpha); who would have nothing gets one of the largest's."""
    owners = np.empty(len(targets), np.int64)
    for label in range(CLASSES):
        mine = np.flatnonzero(targets == label)
        ends = np.cumsum(rng.dirichlet(np.full(clients, alpha)))
        owners[mine] = np.searchsorted(ends, (np.arange(len(mine)) + 0.5) / len(mine)).clip(max=clients - 1)
    for client in np.flatnonzero(np.bincount(owners, minlength=clients) == 0):
        owners[np.flatnonzero(owners == np.bincount(owners).argmax())[0]] = client
    return owners


_ADAMW = LocalSpec("adamw", lr=1e-3, batch_size=8)
_ENCODER = {"kind": "encoder", "outputs": CLASSES}
_MINILM = {**_ENCODER, "vocabulary": 30522, "tokens": 32, "width": 384, "heads": 12, "blocks": 6}
_TINY = {**_ENCODER, "vocabulary": 50, "tokens": 8, "width": 16, "heads": 2, "blocks": 2}
_TEXT = {"layers": {"*": "frozen", "*.query": 4, "*.value": 4}, "local": _ADAMW}
_REVIEWS = {**_TEXT, "local": LocalSpec("adamw", lr=1e-3, batch_size=4), "vocabulary": 30522, "reviews": True}

_ALL = (
    Workload("W1"),
    Workload("W2", alpha=0.1),
    # 6 examples a client: 600,000 rows, 1.9 GB that stay in the file and are mapped.
    Workload("W3", clients=100_000, examples=600_000, cohort=1000),
    Workload("W3-1000", clients=1000, examples=6000, cohort=1000),
    Workload("W4", cohort=500),
    Workload("W5", 32, 32 * 8, 32, model={**_MINILM, "tokens": 79}, **_REVIEWS),
    Workload("W5-32", 16, 16 * 16, 16, model=_MINILM, tokens=32, vocabulary=30522, **_TEXT),
    Workload("check-mlp", 8, 8 * 23, 8, alpha=1.0),
    Workload("check-texts", 3, 3 * 21, 3, model={**_TINY, "tokens": 79}, **{**_REVIEWS, "vocabulary": 50}),
    Workload("check-encoder", 3, 3 * 21, 3, model=_TINY, tokens=8, vocabulary=50, **_TEXT),
)
WORKLOADS = {workload.name: workload for workload in _ALL}


def main() -> None:
    """Makes and caches what the named workloads read."""
    from fedrac.partition import partition

    for name in sys.argv[1:]:
        partition.make({"scheme": "natural"}, WORKLOADS[name].data, SEED)


if __name__ == "__main__":
    main()
