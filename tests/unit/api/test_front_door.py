"""What ``import fedrac`` costs and offers."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import fedrac
from fedrac.api import version
from fedrac.cli import main
from fedrac.flower.strategy import FedRacLora

HEAVY = ("torch", "flwr", "hydra", "pandas", "numpy", "omegaconf", "tqdm")


def test_the_import_brings_nothing_along() -> None:
    program = f"import sys, fedrac; dir(fedrac); print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_says_what_it_is() -> None:
    assert set(fedrac.__all__) == set(fedrac._HOMES) <= set(dir(fedrac))
    for name in set(fedrac.__all__) - {"__version__"}:
        assert getattr(fedrac, name).__doc__, name
    assert fedrac.FedRacLora is FedRacLora
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fedrac.nothing


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fedrac.__version__ == importlib.metadata.version("fedrac")
    monkeypatch.setattr(sys, "argv", ["fedrac", "--version"])
    main.main()
    assert capsys.readouterr().out == f"fedrac {fedrac.__version__}\n"

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "7.8.9"\n')
    monkeypatch.setattr(version, "__file__", str(tmp_path / "fedrac" / "api" / "version.py"))
    assert version.find() == "7.8.9"
    (tmp_path / "pyproject.toml").unlink()
    assert version.find() == "unknown"
