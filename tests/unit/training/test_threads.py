"""How many threads a step gets, and how they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fedrac.training import threads, work

WAITS = """
import os, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
"""
WAYS_IN = (
    "from fedrac.cli.main import main",
    "from fedrac.flower import client_app",
    "import server_app; import fedrac.experiment.run",
    "import fedrac; fedrac.run",
    "from fedrac.flower.strategy import FedRacLora",
)


def waiting(way: str, **environment: str) -> str:
    """What OpenMP finds in the environment when torch is loaded."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = [sys.executable, "-c", WAITS + way]
    root = Path(__file__).parents[3]
    done = subprocess.run(code, env={**clean, **environment}, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("way", WAYS_IN)
def test_how_threads_wait_is_set_before_torch_is_loaded(way):
    assert waiting(way) == "passive 1000"


@pytest.mark.parametrize(
    ("own", "found"),
    [({"OMP_WAIT_POLICY": "active"}, "active None"), ({"GOMP_SPINCOUNT": "7"}, "passive 7")],
)
def test_a_setting_of_ones_own_stays(own, found):
    assert waiting(WAYS_IN[0], **own) == found


@pytest.fixture
def of_four(monkeypatch):
    """Four threads and cores, and nothing that a person has set."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "whole_cores", lambda: 4)
    with threads.using(4):
        yield


def test_threads_follow_from_the_work_and_a_persons_setting_wins(of_four, monkeypatch):
    unit = threads.MULTIPLICATIONS
    assert [threads.fitting(n * unit) for n in (0, 0.9, 1, 2.5, 100)] == [1, 1, 1, 2, 4]
    monkeypatch.setattr(threads, "whole_cores", lambda: 3)
    assert threads.fitting(100 * unit) == 3
    with threads.using(2):
        assert threads.fitting(100 * unit) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads.fitting(0) == 4 and threads.capped(0) == 1


def test_a_host_follows_the_run_of_its_process_or_else_the_rule(of_four):
    with threads.of_a_run():
        torch.set_num_threads(3)
        with threads.of_a_host(lambda: 0.0):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 4
    with threads.of_a_host(lambda: 0.0):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("model", "row", "expected"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(6), 6 * 4 + 4 * 2),
        (nn.Conv2d(3, 5, 3, padding=1), torch.zeros(3, 8, 8), 8 * 8 * 3 * 5 * 9),
        (nn.Sequential(nn.Embedding(50, 6), nn.Linear(6, 4)), torch.zeros(7, dtype=torch.long), 7 * 6 * 4),
    ],
)
def test_the_work_of_a_row_is_that_of_the_formula(model, row, expected):
    for rows in (1, 3):
        assert work.multiplications(model, row.expand(rows, *row.shape), rows) == expected
