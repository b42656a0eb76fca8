"""The pages build without a warning, and the reference has every public name, with what it is."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
_DEFINED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _DEFINED]]:
    """Functions, classes and their methods whose names do not begin with an underscore, by dotted path."""
    for node in body:
        if isinstance(node, _DEFINED) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}.{node.name}")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module that can be imported, by dotted path."""
    for path in sorted((ROOT / "fedrac").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            yield ".".join(parts[: -1 if parts[-1] == "__init__" else None]), ast.parse(path.read_text())


def test_every_public_name_says_what_it_is() -> None:
    silent = [name for name, tree in modules() if not ast.get_docstring(tree)]
    silent += [
        path for name, tree in modules() for path, node in public(tree.body, name) if not ast.get_docstring(node)
    ]
    assert not silent


def test_a_name_without_a_docstring_is_found() -> None:
    tree = ast.parse("class A:\n def f(self): 'says'\n def g(self): pass\n def _h(self): pass\ndef _k(): pass")
    found = dict(public(tree.body, "m"))
    assert list(found) == ["m.A", "m.A.f", "m.A.g"]
    assert [path for path, node in found.items() if not ast.get_docstring(node)] == ["m.A", "m.A.g"]


def test_pages_name_modules_and_files_that_exist() -> None:
    known = {name for name, _ in modules()} | {path for name, tree in modules() for path, _ in public(tree.body, name)}
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for page in pages:
        text = page.read_text()
        for module in re.findall(r"^(?:from|import) (fedrac(?:\.\w+)+)", text, re.MULTILINE):
            assert module in known, f"{page.name} imports {module}"
        for file in re.findall(r"`((?:fedrac|conf|tests|experiments|docker|docs)/[\w./-]+\.\w+)`", text):
            assert (ROOT / file).exists(), f"{page.name} names {file}"


@pytest.mark.slow
def test_the_site_has_every_public_name(tmp_path: Path) -> None:
    """Built strictly: a link to nothing, or a page that no menu has, is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert not built.stderr.strip()
    anchors = {
        a for page in (tmp_path / "reference").glob("*.html") for a in re.findall(r'id="([^"]+)"', page.read_text())
    }
    named = [name for name, _ in modules()]
    named += [path for name, tree in modules() for path, _ in public(tree.body, name)]
    assert not [name for name in named if name not in anchors]
    assert not re.findall(
        r'(?:src|href)="(?:https?:)?//[^"]+\.(?:js|css|woff2?)"', (tmp_path / "index.html").read_text()
    )


def test_the_lines_on_the_algorithm_alone_make_a_round() -> None:
    """As they stand in docs/python.md; the update has rank 2, as it says."""
    part = (ROOT / "docs/python.md").read_text().split("## The algorithm alone")[1]
    (lines,) = re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(lines, names)
    moved = names["state"].weights["weight"] - names["model"].weight
    assert names["state"].round == 1 and torch.linalg.matrix_rank(moved.detach()) == 2
