"""Data for three nodes, and the app that they are sent."""

import subprocess
import sys
from pathlib import Path

import pytest
from deployed import ROOT

from fedrac.flower.superlink import copy_app


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default digits: ``node-0``, ``node-1``, ``node-2`` and ``server``."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    command = [sys.executable, "-m", "fedrac", "split", str(folder), "partition.clients=3"]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_app(ROOT, tmp_path_factory.mktemp("app"))
