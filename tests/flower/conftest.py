"""A SuperLink that the tests of this folder share, and an app to run on it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedrac.flower.superlink import copy_app, run_app, superlink_environment

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder in one process: they share a SuperLink, and each uses all cores."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("flower"))


@pytest.fixture(scope="session")
def app_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_app(ROOT, tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="session")
def superlink(_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which `flwr` finds the SuperLink; it sees the cache folder, and a module of the tests' own."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(ROOT / "tests/unit/own_methods.py", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        with superlink_environment() as environment:
            yield environment


@pytest.fixture
def flower_run(superlink: dict[str, str], app_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs the app with overrides on so many SuperNodes; the run must complete. Returns its output folder."""

    def run(overrides: str, supernodes: int = 2) -> Path:
        output = tmp_path / f"on-{supernodes}"
        code = run_app(superlink, app_dir, f"{overrides} output_dir={output}", supernodes=supernodes)
        assert code == 0
        return output

    return run
