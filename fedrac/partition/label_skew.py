"""Partition schemes that give clients different labels, through Flower's partitioners.

Each takes the training examples, the run's seed and its options, and returns the owner of every example, (N,)
int64 with -1 for nobody, and the number of clients. A partitioner sees a table of ids and labels only.
"""

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedrac.algorithm.streams import Stream
from fedrac.data.examples import Examples

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

Index = NDArray[np.int64]


def dirichlet(
    train: Examples, seed: int, clients: int, alpha: float, min_size: int = 1, draws: int = 100
) -> tuple[Index, int]:
    """Each class is divided in proportions from Dirichlet(alpha); small alpha makes clients differ more.

    Draw d = 0, 1, ... is seeded by the stream ``partition`` of (seed, d); the first one that gives every
    client ``min_size`` examples is taken.

    Raises:
        ValueError: alpha is not positive, the targets are no labels, or none of ``draws`` draws fits.
    """
    labels = _labels(train, "dirichlet")
    if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise ValueError(
            f"partition.alpha={alpha!r} is not a positive number: 0.5 gives skewed clients, 100 nearly equal ones"
        )
    from flwr_datasets.partitioner import DirichletPartitioner

    for draw in range(draws):
        word = Stream(seed, "partition", draw).seed63()
        partitioner = DirichletPartitioner(clients, "label", float(alpha), 0, False, shuffle=False, seed=word)
        owners = _owners(partitioner, labels, min_size)
        if owners is not None:
            return owners, clients
    raise ValueError(
        f"partition.alpha={alpha} left one of {clients} clients with fewer than min_size={min_size} of the "
        f"{len(train)} examples in each of {draws} draws: use a larger alpha, fewer clients, a smaller "
        "min_size (0: clients without examples are left out) or more data"
    )


def pathological(
    train: Examples, seed: int, clients: int, classes: int, assignment: str = "first-deterministic"
) -> tuple[Index, int]:
    """Exactly ``classes`` classes a client, each class in equal parts among the clients that hold it.

    ``assignment`` says how classes are chosen: ``first-deterministic`` (client c has class c mod K and others
    at random), ``deterministic`` (c, c + 1, ... mod K) or ``random``.

    Raises:
        ValueError: more classes than there are, too few examples of a class, or a class that nobody would
            hold.
    """
    labels = _labels(train, "pathological")
    there = len(np.unique(labels))
    if classes > there:
        raise ValueError(f"partition.classes={classes}: the data have {there} classes, choose 1 .. {there}")
    modes = ("first-deterministic", "deterministic", "random")
    if assignment not in modes:
        raise ValueError(f"partition.assignment={assignment!r} is unknown: choose {', '.join(modes)}")
    from flwr_datasets.partitioner import PathologicalPartitioner

    word = Stream(seed, "partition", 0).seed63()
    partitioner = PathologicalPartitioner(clients, "label", classes, assignment, shuffle=False, seed=word)
    try:
        owners = _owners(partitioner, labels, least=1)
    except ValueError as error:
        raise ValueError(
            f"partition.clients={clients} with partition.classes={classes} do not fit the data ({error}): "
            "use fewer of them, or partition.assignment=deterministic"
        ) from error
    missing = sorted(set(labels[owners < 0].tolist())) if owners is not None else []
    if owners is None or missing:
        raise ValueError(
            f"{clients} clients of {classes} classes each would leave the classes {missing} to nobody: use "
            "more partition.clients or partition.classes, or partition.assignment=deterministic"
        )
    return owners, clients


def shard(train: Examples, seed: int, clients: int, shards: int) -> tuple[Index, int]:
    """Examples sorted by label are cut into ``clients * shards`` equal shards; every client has ``shards``.

    What is left at the end, less than one example a shard, belongs to nobody: its owner in (N,) is -1.

    Raises:
        ValueError: fewer examples than shards.
    """
    labels = _labels(train, "shard")
    if clients * shards > len(train):
        raise ValueError(
            f"partition.shards={shards} a client and {clients} clients for {len(train)} examples: use 1 .. "
            f"{len(train) // clients} shards a client"
        )
    from flwr_datasets.partitioner import ShardPartitioner

    word = Stream(seed, "partition", 0).seed63()
    owners = _owners(ShardPartitioner(clients, "label", shards, shuffle=False, seed=word), labels, least=1)
    assert owners is not None  # every shard has an example
    return owners, clients


def _labels(train: Examples, scheme: str) -> Index:
    if train.targets is None or train.targets.ndim != 1:
        raise ValueError(f"partition.scheme={scheme} needs class labels: without them use iid, size or natural")
    return train.targets


def _owners(partitioner: "Partitioner", labels: Index, least: int) -> Index | None:
    """The owner of each example; None as soon as a client is found to have fewer than ``least``."""
    import datasets

    owners = np.full(len(labels), -1, dtype=np.int64)
    partitioner.dataset = datasets.Dataset.from_dict({"index": np.arange(len(labels)), "label": labels})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they warn of is an error of ours
        for client in range(partitioner.num_partitions):
            mine = np.asarray(partitioner.load_partition(client)["index"][:], dtype=np.int64)
            if len(mine) < least:
                return None
            owners[mine] = client
    return owners
