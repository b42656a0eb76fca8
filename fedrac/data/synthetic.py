"""Convex problems with a known truth, and with clients as different as wanted."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.algorithm.streams import Stream
from fedrac.data.examples import Data, Examples
from fedrac.data.store import stored

Array = NDArray[np.float64]
Targets = Callable[[Array, np.random.Generator], NDArray[Any]]


@dataclass(frozen=True)
class Spread:
    """How examples and clients vary; see :func:`linear_regression`.

    Attributes:
        noise: how far targets are from the truth; 0: not at all.
        heterogeneity: how far the clients' truths and inputs are apart; 0: not at all.
        condition: ratio of the largest to the smallest variance of a feature.
        unit: whether every input is scaled to length 1.
    """

    noise: float
    heterogeneity: float
    condition: float
    unit: bool


def linear_regression(
    examples: int = 3000,
    test_examples: int = 1000,
    features: int = 10,
    outputs: int = 10,
    noise: float = 0.1,
    clients: int = 10,
    heterogeneity: float = 0.0,
    condition: float = 1.0,
    unit: bool = False,
    seed: int = 0,
) -> Data:
    """Targets ``y = W_c x + noise * e`` with standard normal e.

    Args:
        examples, test_examples: how many in the training and the test part.
        features, outputs: the sizes of x and y.
        noise: standard deviation of the noise, 0 or more.
        clients: natural clients c (``groups``), of equal sizes, in both parts.
        heterogeneity: h >= 0. With independent normal W, D_c (variance 1/features) and v_c (variance 1):
            ``W_c = W + h D_c`` and ``x ~ N(h v_c, I)``. 0 makes all clients alike.
        condition: ratio of the largest to the smallest variance of a feature; they fall geometrically from 1.
        unit: every x is then scaled to length 1, so that all examples are equally smooth.
        seed: names the draw; not the run's seed.

    Raises:
        ValueError: a size below 1, fewer examples than clients, or negative noise or heterogeneity.
    """

    def targets(scores: Array, generator: np.random.Generator) -> NDArray[np.float32]:
        return (scores + noise * generator.standard_normal(scores.shape)).astype(np.float32)

    sizes = {"features": features, "outputs": outputs, "clients": clients}
    rows = {"examples": examples, "test_examples": test_examples}
    return _problem("linear", "regression", rows, sizes, Spread(noise, heterogeneity, condition, unit), seed, targets)


def logistic_regression(
    examples: int = 2000,
    test_examples: int = 1000,
    features: int = 10,
    classes: int = 10,
    noise: float = 1.0,
    clients: int = 10,
    heterogeneity: float = 0.0,
    condition: float = 1.0,
    unit: bool = False,
    seed: int = 0,
) -> Data:
    """Labels ``argmax(W_c x + noise * g)`` with standard Gumbel g.

    Args:
        classes: number of labels.
        noise: with 1, labels follow the softmax of ``W_c x``; with 0, its largest entry.
        examples, test_examples, features, clients, heterogeneity, condition, unit, seed: as for
            :func:`linear_regression`.

    Raises:
        ValueError: as for :func:`linear_regression`.
    """

    def targets(scores: Array, generator: np.random.Generator) -> NDArray[np.int64]:
        noisy = scores + noise * generator.gumbel(size=scores.shape)
        return np.asarray(noisy.argmax(axis=1), dtype=np.int64)

    sizes = {"features": features, "outputs": classes, "clients": clients}
    rows = {"examples": examples, "test_examples": test_examples}
    return _problem(
        "logistic", "classification", rows, sizes, Spread(noise, heterogeneity, condition, unit), seed, targets
    )


def _problem(
    kind: str,
    task: str,
    rows: dict[str, int],
    sizes: dict[str, int],
    spread: Spread,
    seed: int,
    targets: Targets,
) -> Data:
    _check({**rows, **sizes}, spread)

    def build() -> tuple[Examples, Examples, int]:
        train, test = (_part(f"{kind}/{part}", count, sizes, spread, seed, targets) for part, count in rows.items())
        return train, test, sizes["outputs"]

    arguments = {**rows, **sizes, **asdict(spread), "seed": seed}
    return stored(f"synthetic.{kind}_regression", arguments, task, build)


def _check(sizes: dict[str, int], spread: Spread) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"data.{name}={size} is not positive: there must be at least 1")
    if sizes["clients"] > min(sizes["examples"], sizes["test_examples"]):
        raise ValueError(
            f"data.clients={sizes['clients']} is more than the {sizes['examples']} training or "
            f"{sizes['test_examples']} test examples: give every client at least one of each"
        )
    for name, value in (("noise", spread.noise), ("heterogeneity", spread.heterogeneity)):
        if not value >= 0:
            raise ValueError(f"data.{name}={value} is not a number from 0 up: use 0 for none")
    if not spread.condition >= 1:
        raise ValueError(f"data.condition={spread.condition} is not a number from 1 up: use 1 for equal variances")


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=Stream(seed, "synthetic", name).key))


def _part(name: str, count: int, sizes: dict[str, int], spread: Spread, seed: int, targets: Targets) -> Examples:
    features, outputs, clients = sizes["features"], sizes["outputs"], sizes["clients"]
    truth = _generator(seed, "truth")  # the same for both parts
    weights = truth.standard_normal((outputs, features)) / np.sqrt(features)
    generator = _generator(seed, name)
    x = generator.standard_normal((count, features)) * spread.condition ** -np.linspace(0, 0.5, features)
    own = np.broadcast_to(weights, (clients, outputs, features)).copy()  # every client's truth
    groups = np.arange(count, dtype=np.int64) * clients // count
    edges = np.searchsorted(groups, np.arange(clients + 1))
    for client in range(clients) if spread.heterogeneity > 0 else ():
        x[edges[client] : edges[client + 1]] += spread.heterogeneity * truth.standard_normal(features)
        own[client] += spread.heterogeneity * truth.standard_normal((outputs, features)) / np.sqrt(features)
    if spread.unit:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    scores = np.concatenate([x[a:b] @ w.T for (a, b), w in zip(pairwise(edges), own, strict=True)])
    return Examples(x.astype(np.float32), targets(scores, generator), groups)
