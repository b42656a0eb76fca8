"""The table of the whole family: what is counted, what was best in the trials, and that all methods are in it."""

import math
from typing import Any

import numpy as np
import pytest

from experiments import family, family_trials
from fedrac.experiment import compose
from fedrac.results.report.runs import Run

WEIGHTS = 784 * 64 + 64 * 64 + 64 * 5
BIASES = 64 + 64 + 5


def run(name: str, accuracy: float, seed: int = 0, rounds: int = 4, **settings: Any) -> Run:
    """One with evaluations after rounds 1 to 4, all alike; who diverged has fewer rounds than planned."""
    at = np.arange(1.0, rounds + 1)
    columns = {"round": at, "test/accuracy": np.full(rounds, accuracy), "upload_bytes": np.full(rounds, 400.0)}
    columns |= {"download_bytes": np.full(rounds, 4000.0), "simulated_seconds": np.full(rounds, 30.0)}
    columns |= {"clients/worst10_accuracy": np.full(rounds, accuracy / 2)}
    given = {"method.name": name, "method.personal": [], "cohort.size": 10, "rounds": 4, "seed": seed, **settings}
    return Run(name, given, columns, {"test/accuracy": 0.1})


@pytest.mark.parametrize(
    ("stem", "numbers"),
    [
        ("fedavg", 4 * WEIGHTS),  # values, gradients, two moments
        ("fed_rac_lora", 4 * 4 * (784 + 64 + 64) + 4 * (64 + 64 + 5)),  # and the sketch
        ("fedavg_lora", 4 * 4 * (784 + 64 + 64 + 64 + 64 + 5)),
        ("rolora", 4 * 4 * (784 + 64 + 64) + 4 * (64 + 64 + 5)),  # in rounds in which A is trained
        ("two_sided", 4 * (8 * 48 + 8 * 48 + 5 * 32) + 8 * (64 + 64) + 48 * (784 + 64) + 32 * 64),
        ("scaffold", (2 + 2) * WEIGHTS),  # plain SGD; the client's control and the server's
        ("feddyn", (4 + 1) * WEIGHTS),
    ],
)
def test_what_a_client_holds(stem: str, numbers: int) -> None:
    assert family.held(stem, "family") == WEIGHTS + BIASES + numbers


def test_bytes_and_simulated_time_to_a_level() -> None:
    """Of the runs that get there, whose number is told; a client's, of a cohort of 10."""
    level = family.Setting("family", "Dirichlet 0.5", 0.9, 2)
    assert family._costs([run("FedAvg", 0.95), run("FedAvg", 0.8)], level) == ["40 B (1)", "400 B (1)", "30 s (1)"]
    assert family._costs([run("FedAvg", 0.8)], level) == ["-"] * 3


def test_the_best_method_comes_first_with_its_worst_clients() -> None:
    found = {d: [run("FedAvg", 0.7), run("RoLoRA", 0.8)] for d in family.DIVISIONS}
    _, _, first, second = family._table(found, family.MNIST).splitlines()
    assert first.startswith("| RoLoRA | 10 | 80.0 | 80.0 | 80.0 | 40.0 | - | - | - | ") and "| FedAvg |" in second


def test_a_trial_counts_by_the_mean_over_divisions_and_not_at_all_if_it_diverged() -> None:
    rates = {0.1: (0.9, 0.5), 0.2: (0.8, 0.8)}
    found = [
        run("FedAvg", accuracy, **{"local.lr": rate, "partition.alpha": alpha})
        for rate, pair in rates.items()
        for alpha, accuracy in zip((0.5, 0.1), pair, strict=True)
    ]
    found.append(run("FedAvg", 0.99, rounds=2, **{"local.lr": 0.3}))
    kinds = family_trials.trials(found)["FedAvg"]
    assert max(kinds, key=kinds.__getitem__) == (("local.lr", 0.2),)
    assert kinds[("local.lr", 0.1),] == pytest.approx(0.7) and kinds[("local.lr", 0.3),] == 0


def test_clients_with_factors_of_their_own_are_measured_by_their_own_models() -> None:
    mine = run("FedSA-LoRA", 0.3, **{"method.personal": ["*:B"]})
    own = {"clients/personal_accuracy": np.array([0.9]), "clients/worst10_personal_accuracy": np.array([0.6])}
    one = Run("one", mine.config, {**mine.columns, **own}, mine.initial)
    assert family_trials.measure(one) == "clients/personal_accuracy" and math.isclose(family.worst_tenth(one), 0.6)


def test_every_method_has_rates_of_its_own() -> None:
    tuned = {path.stem.removeprefix("family_") for path in (compose.config_dir() / "rates").glob("family_*.yaml")}
    assert tuned == set(family_trials.files().values())
