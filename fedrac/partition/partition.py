"""Which client holds which training examples.

A scheme gives every example an owner; a partition lists the examples owner by owner.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data import Data
from fedrac.loading import cache, target
from fedrac.partition.label_skew import dirichlet, pathological, shard
from fedrac.partition.schemes import iid, natural, size

Index = NDArray[np.int64]
Scheme = Callable[..., tuple[Index, int]]
NODES = "nodes"  # the scheme in which every node has data of its own: nothing is divided here


@dataclass(frozen=True, eq=False)
class Partition:
    """The examples of every client.

    Attributes:
        index: (N',) int64, example ids, client after client and ascending within a client. A scheme may leave
            some examples to nobody.
        offsets: (M + 1,) int64; client c has ``index[offsets[c]:offsets[c + 1]]``, at least one.
    """

    index: Index
    offsets: Index

    @property
    def clients(self) -> int:
        """Number of clients M."""
        return len(self.offsets) - 1

    @cached_property
    def sizes(self) -> Index:
        """Number of examples of each client, (M,) int64."""
        return np.diff(self.offsets)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the partition: equal exactly where the same clients have the same examples."""
        sha = hashlib.sha256(self.offsets.astype("<i8").tobytes())
        sha.update(self.index.astype("<i8").tobytes())
        return sha.hexdigest()

    @classmethod
    def of_one(cls, client: int, examples: int) -> "Partition":
        """What a party knows of a partition: ``client`` has all its ``examples``; what others have is elsewhere."""
        offsets = np.zeros(client + 2, dtype=np.int64)
        offsets[-1] = examples
        return cls(np.arange(examples, dtype=np.int64), offsets)

    def of(self, client: int) -> Index:
        """Example ids of one client, (examples,) int64, ascending.

        Raises:
            ValueError: there is no such client.
        """
        if not 0 <= client < self.clients:
            raise ValueError(f"there is no client {client}: the {self.clients} clients are 0 .. {self.clients - 1}")
        return self.index[self.offsets[client] : self.offsets[client + 1]]


def make(spec: Mapping[str, Any], data: Data, seed: int) -> Partition:
    """Divide the training examples of ``data`` among clients.

    Where ``min_size`` is 0, clients that got no examples are left out, and those after them move up. The result is kept
    in the cache, but for data without a key, and for a scheme of a user's own, whose code may change.

    Args:
        spec: ``scheme`` and its options, see ``conf/partition``. A scheme is one of those there, or the import path of
            a function that takes the training examples, the seed and its options, and returns the owner of every
            example, (N,) integers with -1 for nobody, and the number of clients.
        data: what is divided.
        seed: the run's seed. The same spec, data and seed give the same partition in every process.

    Raises:
        ValueError: an unknown scheme or option, an impossible value, or data that the scheme cannot divide.
    """
    scheme = _scheme(spec.get("scheme"))
    options = _options(spec, scheme, len(data.train))

    def build() -> dict[str, NDArray[Any]]:
        owners, clients = _checked(scheme(data.train, seed, **options), spec["scheme"], len(data.train))
        kept = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
        offsets = np.searchsorted(owners[kept], np.arange(clients + 1))
        return {"index": kept, "offsets": np.unique(offsets)}  # a client without examples ends where it begins

    # NumPy's distributions and the partitioners may draw other numbers in another version.
    versions = [np.__version__, version("flwr-datasets")]
    arguments = {**options, "scheme": spec["scheme"], "data": data.key, "seed": seed, "versions": versions}
    own = spec["scheme"] not in _SCHEMES
    arrays = build() if own or not data.key else cache.arrays(cache.key("partition", arguments), build)
    # Copies, small beside the data: torch.from_numpy warns of arrays that cannot be written.
    return Partition(arrays["index"].astype(np.int64), arrays["offsets"].astype(np.int64))


def _scheme(name: Any) -> Scheme:
    if isinstance(name, str) and "." in name:
        return target.function(name, "partition.scheme")
    if name not in _SCHEMES:
        known = ", ".join(_SCHEMES)
        raise ValueError(f"partition.scheme={name!r} is unknown: choose one of {known}, or a function's import path")
    return _SCHEMES[name]


def _checked(made: Any, scheme: str, examples: int) -> tuple[Index, int]:
    """What a scheme returned, if it divides the examples: an owner below the number of clients for each, or -1."""
    owners, clients = made if isinstance(made, tuple) and len(made) == 2 else (None, 0)
    owners = np.asarray(owners)
    if owners.shape != (examples,) or owners.dtype.kind not in "iu" or type(clients) is not int:
        raise ValueError(
            f"partition.scheme={scheme} must return a pair: the owner of each of the {examples} examples, integers "
            f"({examples},), and the number of clients, an int"
        )
    if owners.min() < -1 or owners.max() >= clients:
        raise ValueError(
            f"partition.scheme={scheme} returned owners {owners.min()} .. {owners.max()} and {clients} clients: owners "
            f"are 0 .. {clients - 1}, or -1 for nobody"
        )
    return owners.astype(np.int64), clients


def _options(spec: Mapping[str, Any], scheme: Scheme, examples: int) -> dict[str, Any]:
    options = {name: value for name, value in spec.items() if name != "scheme"}
    signature = inspect.signature(scheme)
    try:
        bound = signature.bind(None, None, **options)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[2:])
        raise ValueError(f"partition.scheme={spec['scheme']}: {error}. Its options are {known}") from error
    bound.apply_defaults()
    options = dict(list(bound.arguments.items())[2:])
    _check(options, examples)
    return options


def _check(options: Mapping[str, Any], examples: int) -> None:
    for name in ("clients", "min_size", "draws", "classes", "shards"):
        value = options.get(name)
        least = 0 if name == "min_size" else 1
        if value is not None and not (isinstance(value, int) and value >= least):
            raise ValueError(f"partition.{name}={value!r}: choose a whole number, {least} or more")
    clients, least = options.get("clients"), options.get("min_size", 1)
    if clients is not None and clients * least > examples:
        raise ValueError(
            f"partition.clients={clients} with at least {least} examples each need {clients * least}, there "
            f"are {examples}: use fewer clients, a smaller min_size or more data"
        )


_SCHEMES: dict[str, Scheme] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "pathological": pathological,
    "shard": shard,
    "size": size,
    "natural": natural,
}
