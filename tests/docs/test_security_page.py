"""Every row of the tables on security names tests that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
_TEST = re.compile(r"`((?:[\w/]+\.py)?(?:::\w+)?)`")


def rows() -> Iterator[tuple[str, str]]:
    """Who and the last cell, of the tables whose last column is of tests."""
    inside = False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not inside:
            inside = cells[-1] == "test"
        elif line.startswith("| "):
            if inside:
                yield " | ".join(cells[:2]), cells[-1]
        elif not line.startswith("|"):
            inside = False


def named(cell: str) -> Iterator[tuple[str, str]]:
    """Files and functions; a function alone is of the file before it."""
    file = ""
    for match in _TEST.findall(cell):
        path, _, function = match.partition("::")
        file = path or file
        yield file, function


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_threat_has_a_test_that_exists() -> None:
    found = list(rows())
    assert len(found) > 30
    for who, cell in found:
        tests = list(named(cell))
        assert tests, f"{who}: no test"
        for file, function in tests:
            places = [place for base in ("tests", "tests/unit", "") if (place := ROOT / base / file).is_file()]
            assert places, f"{who}: there is no {file}"
            assert not function or function in functions(places[0]), f"{who}: there is no {function} in {file}"
