"""The model that a run starts from."""

import torch

from fedrac.experiment import compose
from fedrac.experiment.pretrain import initial_weights
from fedrac.experiment.settings import parse
from fedrac.training import threads

SMALL = (
    "data=logistic_regression data.examples=40 model=linear model.inputs=10 model.outputs=10 "
    "pretrain.data=null pretrain.epochs=1"
)


def start(*overrides: str) -> dict[str, torch.Tensor]:
    return initial_weights(parse(compose.load([*SMALL.split(), *overrides])))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_cache_holds_the_same_bits_whatever_threads_a_person_has_set(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as if a person had said so
    entries, found = [], []
    for count in (1, 2):
        with threads.using(count):
            found.append(start())
            assert torch.get_num_threads() == count
        entries.append(sorted(path.name for path in tmp_path.iterdir()))
    assert equal(*found) and entries[0] == entries[1]


def test_all_seeds_start_from_one_model_unless_each_has_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path))
    common = start("seed=1")
    assert equal(common, start("seed=2"))
    own = {seed: start("pretrain.seed=null", f"seed={seed}") for seed in (0, 1)}
    assert not equal(own[0], own[1])
    assert equal(own[1], start("pretrain.seed=1", "seed=2"))
    assert not equal(common, start("seed=1", "pretrain.epochs=2"))
