"""How many examples of each label each client has, recorded at a run's start: the data may be gone later."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac import data
from fedrac.experiment.settings import Experiment
from fedrac.partition import partition
from fedrac.protocol.connected_clients import ConnectedClients
from fedrac.results.record import write_atomically

_MOST_NUMBERS = 50_000_000


def label_counts(targets: NDArray[Any], division: partition.Partition, labels: int) -> NDArray[np.int32]:
    """(clients, labels): examples of each label on each client.

    Args:
        targets: (N,) labels of all training examples.
        division: who has which.
        labels: how many there are.
    """
    owners = np.repeat(np.arange(division.clients), division.sizes)
    pairs = owners * labels + np.asarray(targets)[division.index]
    return np.bincount(pairs, minlength=division.clients * labels).reshape(-1, labels).astype(np.int32)


def write(folder: Path, experiment: Experiment, examples: data.Data, population: ConnectedClients) -> None:
    """Writes ``clients.npz``, where an example has one label, unless hosts have data of their own: those stay there."""
    labels = examples.train.labels
    if labels is None:
        return
    try:
        division = partition.make(experiment.partition, examples, experiment.seed)
    except ValueError:  # not what is on the hosts
        return
    hosts = {hosted.partition for hosted in population.hosts.values()}
    if hosts != {division.digest} or division.clients * examples.outputs > _MOST_NUMBERS:
        return
    counts = io.BytesIO()
    np.savez_compressed(counts, labels=label_counts(labels, division, examples.outputs))
    write_atomically(folder / "clients.npz", counts.getvalue())
