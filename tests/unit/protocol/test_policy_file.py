"""The policy's file, and the noise that a node adds itself."""

import math
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from fedrac.aggregation import privacy
from fedrac.algorithm.state import Spent
from fedrac.protocol import own_noise, policy
from fedrac.protocol.policy import OPEN, STRICT, Policy


def read(tmp_path: Path, text: str) -> policy.PolicyFile:
    (tmp_path / "policy.yaml").write_text(text)
    policy._read.cache_clear()
    return policy.read(tmp_path / "policy.yaml")


def test_what_a_file_does_not_say_is_strict(tmp_path: Path) -> None:
    assert read(tmp_path, "") == STRICT
    found = read(tmp_path, "# ours\nloaders:\n  - our.load\nmost_rank: 4\n")
    assert found.policy == Policy(loaders=("our.load",), most_rank=4)
    assert [found.place(key) for key in ("loaders", "most_rank", "train")] == [
        "line 2 there",
        "line 4 there",
        "the default",
    ]


@pytest.mark.parametrize("text, message", [
    ("least_example: 3", r"line 1: there is no key least_example; did you mean least_examples\?"),
    ("\nmost_rank: many", "line 2: most_rank: 'many'"),
    ("train: '*'", "line 1: train"),
    ("most_rank: 0", "line 1: most_rank: 0 must be at least 1"),
    ("clip: -1", "line 1: clip: -1.0 must be positive"),
    ("clip: .inf", "must be positive"),
    ("noise: .nan", "noise"),
    ("noise: 1", "set clip, and evaluate: false"),
    ("noise: 1\nclip: 1", "set clip, and evaluate: false"),
    ("most_epsilon: 3", "set noise"),
    ("folders: [data]", "folders: data must be an absolute path"),
    ("- a", "must have lines KEY: VALUE"),
    ("a: [", "is no YAML file"),
    ("evaluate: !!python/object/apply:os.system [true]", "is no YAML file"),
])  # fmt: skip
def test_a_wrong_file_says_what_is_right(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_node_without_a_policy_is_strict_but_in_a_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ray:
        started = False

        @classmethod
        def is_initialized(cls) -> bool:
            return cls.started

    assert policy.of_node(OPEN) is None
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert policy.of_node(None) is STRICT
    monkeypatch.setitem(sys.modules, "ray", Ray)
    assert policy.of_node(None) is STRICT
    Ray.started = True
    assert policy.of_node(None) is None


def test_the_noise_is_standard_normal_and_never_the_same() -> None:
    first, second = own_noise.system_normal(40000), own_noise.system_normal(40000)
    assert not (first == second).any() and bool(first.isfinite().all())
    for numbers in (first, second):  # five standard errors
        assert abs(float(numbers.mean())) < 5 / 200
        assert abs(float(numbers.var()) - 1) < 5 * math.sqrt(2) / 200
    assert abs(float(torch.dot(first, second)) / 40000) < 5 / 200


def test_one_noisy_update_costs_what_a_gaussian_mechanism_costs() -> None:
    """Renyi divergence of order a is a / (2 s^2): without a cohort to hide in, the account is the closed form."""
    sigma, delta = 4.0, 1e-5
    orders = [1 + x / 100 for x in range(5, 20000)]
    closed = min(a / (2 * sigma**2) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in orders)
    assert privacy.epsilon([Spent(1, 1, sigma, 1)], delta, 1) == pytest.approx(closed, rel=0.02)


def test_the_policy_that_comes_with_the_containers() -> None:
    """It names every key; it is the strict one, but that a node is never alone in a round."""
    found = policy.read(Path(__file__).parents[3] / "docker" / "policy.yaml")
    assert found.policy == replace(STRICT.policy, least_cohort=2)
    assert set(found.places) == {f.name for f in fields(Policy)}
