"""Which version of fedrac this is."""

import importlib.metadata
import tomllib
from pathlib import Path


def find() -> str:
    """That of the installed package; of a checkout, or of a bundle that Flower made of it, that in pyproject.toml."""
    try:
        return importlib.metadata.version("fedrac")
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        return str(
            tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]["version"]
        )
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"


__version__ = find()
