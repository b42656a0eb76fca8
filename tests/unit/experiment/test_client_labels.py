"""What is recorded of the clients' labels."""

from pathlib import Path

import numpy as np
import pytest
from runs import workload

from fedrac import data
from fedrac.experiment import client_labels, compose
from fedrac.experiment.settings import parse
from fedrac.partition import partition
from fedrac.protocol.connected_clients import ConnectedClients, Hosted

WORK = ["data=logistic_regression", "data.examples=60", "data.classes=3", "model=linear", "pretrain=none"]
WORK += ["partition.clients=6", "cohort.size=2"]


def population(digest: str) -> ConnectedClients:
    found = ConnectedClients(workload(), 1.0)
    found.hosts = {1: Hosted(np.arange(6), np.ones(6, np.int64), digest)}
    return found


def test_every_example_is_counted_where_it_is(tmp_path: Path) -> None:
    experiment = parse(compose.load(WORK))
    examples = data.load(experiment.data)
    division = partition.make(experiment.partition, examples, experiment.seed)
    client_labels.write(tmp_path, experiment, examples, population(division.digest))
    labels = np.load(tmp_path / "clients.npz")["labels"]
    targets = np.asarray(examples.train.targets)
    for client in range(6):
        for label in range(3):
            assert labels[client, label] == (targets[division.of(client)] == label).sum()
    assert labels.shape == (6, 3) and labels.sum() == len(division.index)
    assert [path.name for path in tmp_path.iterdir()] == ["clients.npz"]


def test_hosts_with_data_of_their_own_are_not_counted(tmp_path: Path) -> None:
    experiment = parse(compose.load(WORK))
    client_labels.write(tmp_path, experiment, data.load(experiment.data), population("another"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overrides", [["data=linear_regression", "data.clients=6"]])
def test_a_regression_has_no_labels(tmp_path: Path, overrides: list[str]) -> None:
    experiment = parse(compose.load([*overrides, "partition=natural", "model=linear", "pretrain=none"]))
    examples = data.load(experiment.data)
    division = partition.make(experiment.partition, examples, experiment.seed)
    client_labels.write(tmp_path, experiment, examples, population(division.digest))
    assert not list(tmp_path.iterdir())
