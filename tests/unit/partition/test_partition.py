import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from fedrac.data import Data, Examples, mnist
from fedrac.data.synthetic import logistic_regression
from fedrac.partition.partition import Partition, make

CONF = Path(__file__).parents[3] / "conf" / "partition"
DIRICHLET = {"scheme": "dirichlet", "clients": 100, "alpha": 0.5, "min_size": 1}


def data_of(labels, groups=None, key=None):
    """Data with these labels (or, given floats, values) and nothing of interest as inputs."""
    y = np.asarray(labels)
    y = y[:, None].astype(np.float32) if y.dtype.kind == "f" else y.astype(np.int64)
    examples = Examples(np.zeros((len(y), 1), np.float32), y, groups)
    task = "classification" if y.ndim == 1 else "regression"
    return Data(examples, examples, task, 10, key or f"{hash(y.tobytes())} {groups}")


@pytest.fixture(scope="module")
def digits():
    return mnist.embedded([5, 6, 7, 8, 9])


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path))


def check(partition: Partition, examples: int):
    """Every client has its examples, ascending; nobody shares one."""
    assert partition.index.dtype == partition.offsets.dtype == np.int64
    assert partition.offsets[0] == 0 and partition.offsets[-1] == len(partition.index)
    assert partition.sizes.min() >= 1 and partition.sizes.sum() == len(partition.index)
    assert len(np.unique(partition.index)) == len(partition.index)
    assert partition.index.min() >= 0 and partition.index.max() < examples
    for client in range(partition.clients):
        assert (np.diff(partition.of(client)) > 0).all()


DIVIDING = sorted(path for path in CONF.glob("*.yaml") if path.stem not in ("nodes", "custom"))


@pytest.mark.parametrize("path", DIVIDING, ids=lambda path: path.stem)
def test_every_scheme_divides_the_default_data(path, digits):
    groups = np.arange(2000) % 7 * 10
    data = Data(Examples(digits.train.inputs, digits.train.targets, groups), digits.test, digits.task, 5, "grouped")
    partition = make(OmegaConf.to_container(OmegaConf.load(path)), data, seed=1)
    check(partition, 2000)
    assert partition.clients == (7 if path.stem == "natural" else 100)
    assert len(partition.index) == 2000


@pytest.mark.parametrize("seed", range(1, 21))
def test_the_default_partition_exists_for_many_seeds(digits, seed):
    partition = make(DIRICHLET, digits, seed)
    check(partition, 2000)
    assert len(partition.index) == 2000 and partition.clients == 100


@pytest.mark.parametrize(
    "spec",
    [
        DIRICHLET,
        {"scheme": "iid", "clients": 30},
        {"scheme": "size", "clients": 30, "law": "square"},
        {"scheme": "shard", "clients": 30, "shards": 2},
        {"scheme": "pathological", "clients": 30, "classes": 2},
    ],
    ids=lambda spec: spec["scheme"],
)
def test_the_seed_decides(digits, tmp_path, monkeypatch, spec):
    digests = []
    for folder, seed in (("a", 1), ("b", 1), ("b", 2)):
        monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path / folder))  # nothing cached the first time
        digests.append(make(spec, digits, seed).digest)
    assert digests[0] == digests[1] != digests[2]


def test_another_process_divides_alike(tmp_path):
    code = (
        "from fedrac.data.synthetic import logistic_regression; from fedrac.partition.partition import make\n"
        f"print(make({DIRICHLET}, logistic_regression(), 3).digest)"
    )
    environment = {**os.environ, "FEDRAC_CACHE": str(tmp_path), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == make(DIRICHLET, logistic_regression(), 3).digest
    assert done.stderr == ""  # no progress bars


def test_partitions_are_cached_by_spec_seed_and_data(digits, fresh, tmp_path):
    first = make(DIRICHLET, digits, 1)
    assert make({**DIRICHLET, "draws": 100}, digits, 1).digest == first.digest  # a default, spelled out
    assert len(list(tmp_path.iterdir())) == 1
    make(DIRICHLET, digits, 2)
    make(DIRICHLET, data_of(digits.train.targets, key="other"), 1)
    assert len(list(tmp_path.iterdir())) == 3


def test_global_generators_are_left_alone(digits, fresh):
    state = np.random.get_state()[1].copy()
    make(DIRICHLET, digits, 1)
    assert np.array_equal(np.random.get_state()[1], state)


def test_iid_sizes_differ_by_one_at_most():
    partition = make({"scheme": "iid", "clients": 7}, data_of(np.arange(100) // 10), 0)
    assert set(partition.sizes) == {14, 15} and len(partition.index) == 100
    assert len(set(partition.of(0) // 10)) > 3  # of many classes


def test_a_hundred_thousand_clients_take_no_time():
    data = data_of(np.zeros(10**6, int), key="large")
    assert set(make({"scheme": "iid", "clients": 10**5}, data, 0).sizes) == {10}
    sizes = make({"scheme": "size", "clients": 10**5, "law": "linear"}, data, 0).sizes
    assert sizes.sum() == 10**6 and sizes.min() == 1 and sizes.max() <= 20


def test_small_alpha_makes_clients_differ():
    data = data_of(np.arange(4000) % 4)
    spread = []
    for alpha in (0.3, 3, 1000):
        partition = make({"scheme": "dirichlet", "clients": 10, "alpha": alpha}, data, 0)
        counts = [np.bincount(partition.of(c) % 4, minlength=4) / partition.sizes[c] for c in range(10)]
        spread.append(np.std(counts))
    assert spread[0] > 2 * spread[1] > 4 * spread[2]


def test_dirichlet_takes_the_first_draw_that_fits():
    data = data_of(np.arange(2000) % 5)
    spec = {"scheme": "dirichlet", "clients": 20, "alpha": 1.0}
    for least in (1, 20, 40):
        assert make({**spec, "min_size": least}, data, 0).sizes.min() >= least
    message = r"partition\.alpha=0\.01 left one of 20 clients .*min_size=1 of the 2000 .* 5 draws: use a larger alpha"
    with pytest.raises(ValueError, match=message):
        make({**spec, "alpha": 0.01, "draws": 5}, data, 0)


def test_clients_without_examples_can_be_left_out():
    data = data_of(np.arange(200) % 5)
    spec = {"scheme": "dirichlet", "clients": 50, "alpha": 0.05, "min_size": 0}
    partition = make(spec, data, 0)
    check(partition, 200)
    assert len(partition.index) == 200 and 5 <= partition.clients < 50
    with pytest.raises(ValueError, match=r"min_size \(0: clients without examples are left out\)"):
        make({**spec, "min_size": 1}, data, 0)


@pytest.mark.parametrize("assignment", ["first-deterministic", "deterministic", "random"])
def test_pathological_clients_hold_their_number_of_classes(assignment):
    data = data_of(np.arange(1000) % 10)
    spec = {"scheme": "pathological", "clients": 40, "classes": 3, "assignment": assignment}
    partition = make(spec, data, 0)
    assert all(len(set(partition.of(client) % 10)) == 3 for client in range(40))
    assert len(partition.index) == 1000


def test_shards_hold_neighbouring_labels():
    partition = make({"scheme": "shard", "clients": 10, "shards": 2}, data_of(np.arange(1005) % 10), 0)
    assert set(partition.sizes) == {100}  # 5 are left to nobody
    assert all(len(set(partition.of(client) % 10)) <= 4 for client in range(10))


def test_sizes_follow_the_law():
    data = data_of(np.arange(1000) % 10)
    for law, shares in {
        "linear": np.arange(1, 5),
        "square": np.arange(1, 5) ** 2,
        "exponential": np.exp(range(4)),
    }.items():
        sizes = make({"scheme": "size", "clients": 4, "law": law, "min_size": 5}, data, 0).sizes
        assert sizes.sum() == 1000 and np.abs(sizes - 5 - 980 * shares / shares.sum()).max() <= 1


def test_natural_clients_are_the_groups_in_order():
    groups = np.array([7, 3, 7, 9, 3, 3])
    partition = make({"scheme": "natural", "clients": None}, data_of(np.zeros(6, int), groups), 0)
    assert [partition.of(client).tolist() for client in range(3)] == [[1, 4, 5], [0, 2], [3]]
    with pytest.raises(ValueError, match=r"clients=2 but the data have 3 clients of their own: set .*=3 or null"):
        make({"scheme": "natural", "clients": 2}, data_of(np.zeros(6, int), groups), 0)


def test_one_client_has_everything():
    assert make({"scheme": "iid", "clients": 1}, data_of(np.arange(5)), 0).of(0).tolist() == [0, 1, 2, 3, 4]


BAD = {
    "scheme": ({"scheme": "dirichet"}, "partition.scheme='dirichet' is unknown: choose one of iid, dirichlet"),
    "none": ({}, "partition.scheme=None is unknown"),
    "option": (
        {"scheme": "iid", "clients": 2, "alpha": 1},
        "unexpected keyword argument 'alpha'. Its options are clients",
    ),
    "missing": ({"scheme": "iid"}, "missing a required argument: 'clients'"),
    "zero": ({"scheme": "iid", "clients": 0}, "partition.clients=0: choose a whole number"),
    "word": ({"scheme": "iid", "clients": "many"}, "partition.clients='many': choose a whole number"),
    "many": ({"scheme": "iid", "clients": 61}, "clients=61 with at least 1 .* there are 60: use fewer clients"),
    "least": ({**DIRICHLET, "clients": 7, "min_size": 9}, "clients=7 with at least 9 examples each need 63"),
    "alpha": ({**DIRICHLET, "clients": 2, "alpha": 0}, "partition.alpha=0 is not a positive number"),
    "alpha word": ({**DIRICHLET, "clients": 2, "alpha": "a"}, "partition.alpha='a' is not a positive number"),
    "classes": ({"scheme": "pathological", "clients": 2, "classes": 11}, "the data have 10 classes, choose 1 .. 10"),
    "holders": (
        {"scheme": "pathological", "clients": 60, "classes": 9},
        "clients=60 with partition.classes=9 do not fit",
    ),
    "nobody": ({"scheme": "pathological", "clients": 2, "classes": 2}, "would leave the classes .* to nobody"),
    "assignment": (
        {"scheme": "pathological", "clients": 2, "classes": 2, "assignment": "any"},
        "assignment='any' is unknown",
    ),
    "shards": ({"scheme": "shard", "clients": 7, "shards": 9}, "partition.shards=9 .*use 1 .. 8 shards"),
    "law": ({"scheme": "size", "clients": 2, "law": "cubic"}, "partition.law='cubic' is unknown: choose one of linear"),
    "groups": ({"scheme": "natural"}, "natural needs data with clients of their own"),
    "unset": ({"scheme": "???"}, r"partition.scheme='\?\?\?' is unknown: .*, or a function's import path"),
    "module": ({"scheme": "no.such"}, r"partition.scheme=no.such cannot be used \(.*PYTHONPATH"),
    "attribute": ({"scheme": "fedrac.partition.schemes.none"}, "partition.scheme=fedrac.*none cannot be used"),
    "no function": ({"scheme": "fedrac.partition.partition.NODES"}, "is a str: give the import path of a function"),
    "own option": ({"scheme": f"{__name__}.halves", "clients": 2}, "unexpected keyword argument 'clients'"),
    "own count": ({"scheme": f"{__name__}.halves", "first": 61}, "returned owners 0 .. 2 and 2 clients"),
    "own form": ({"scheme": f"{__name__}.halves", "first": -1}, "must return a pair: the owner of each of the 60"),
}


@pytest.mark.parametrize("spec, message", BAD.values(), ids=BAD)
def test_impossible_specs_name_the_value_and_the_mend(spec, message):
    with pytest.raises(ValueError, match=message):
        make(spec, data_of(np.arange(60) % 10), 0)


@pytest.mark.parametrize(
    "scheme", [DIRICHLET, {"scheme": "shard", "shards": 1}, {"scheme": "pathological", "classes": 1}]
)
def test_label_skew_needs_labels(scheme):
    with pytest.raises(ValueError, match="needs class labels: without them use iid, size or natural"):
        make({**scheme, "clients": 2}, data_of(np.linspace(0, 1, 60)), 0)


def halves(train, seed, first=20):
    """The ``first`` examples are client 0's, the last one is nobody's, all else is client 1's."""
    if first < 0:
        return np.ones(len(train))
    owners = np.where(np.arange(len(train)) < first, 0, 1 if first < len(train) else 2)
    owners[-1] = -1 if first < len(train) else 2
    return owners, 2


def test_a_scheme_of_ones_own_divides_and_is_asked_anew_each_time(fresh, tmp_path):
    data = data_of(np.arange(60) % 10)
    for first in (20, 25):
        partition = make({"scheme": f"{__name__}.halves", "first": first}, data, 0)
        assert [partition.of(client).tolist() for client in (0, 1)] == [[*range(first)], [*range(first, 59)]]
    assert not any(tmp_path.iterdir())


def test_a_client_that_is_not_there():
    with pytest.raises(ValueError, match=r"no client 3: the 3 clients are 0 \.\. 2"):
        make({"scheme": "iid", "clients": 3}, data_of(np.arange(60) % 10), 0).of(3)
