"""The ten changes of docs/extending.md, made in a copy of the code: commands run, and show what the page says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
COPIED = ("fedrac", "conf", "tests/unit", "tests/conftest.py", "pyproject.toml")
PROGRAMS = {"fedrac": [sys.executable, "-m", "fedrac"], "pytest": [sys.executable, "-m", "pytest"]}
MOST_FILES = 2


@dataclass(frozen=True)
class Block:
    """One block of code: its language, the file of its title, if any, and its text."""

    language: str
    file: str
    text: str


def sections() -> dict[str, list[Block]]:
    """The blocks of every change, by its heading."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    found = zip(parts[::2], parts[1::2], strict=True)
    pattern = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
    return {title: [Block(*match) for match in pattern.findall(body)] for title, body in found}


def edit(copy: Path, block: Block) -> None:
    """A new file, or a change of one: what stands there with ``-`` or a space becomes what has ``+`` or a space."""
    path = copy / block.file
    if block.language != "diff":
        assert not path.exists()
        path.write_text(block.text)
        return
    lines = block.text.splitlines(keepends=True)
    before, after = ("".join(line[1:] for line in lines if line[0] in marks) for marks in ("- ", "+ "))
    text = path.read_text()
    assert text.count(before) == 1, f"{block.file} does not have once: {before}"
    path.write_text(text.replace(before, after))


def run(copy: Path, command: str) -> str:
    """What a command prints."""
    program, *arguments = shlex.split(command)
    shell = program not in PROGRAMS
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    words = command if shell else [*PROGRAMS[program], *arguments]
    done = subprocess.run(words, cwd=copy, env=environment, shell=shell, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def bare(text: str) -> str:
    """Without numbers and the space around them: those differ a little from machine to machine."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*", "#", text)).strip()


def test_there_are_ten_and_none_takes_more_than_two_files_beside_its_test() -> None:
    changed = {title: {block.file for block in blocks if block.file} for title, blocks in sections().items()}
    assert len(changed) == 10
    for title, files in changed.items():
        assert 1 <= len([file for file in files if not file.startswith("tests/")]) <= MOST_FILES, title


@pytest.mark.slow
@pytest.mark.parametrize("title", sections())
def test_the_change_does_what_the_page_says(title: str, tmp_path: Path) -> None:
    for name in COPIED:
        source, copy = ROOT / name, tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
    shown = ""
    for block in sections()[title]:
        if block.file:
            edit(tmp_path, block)
        elif block.language == "sh":
            shown = "\n".join(run(tmp_path, command) for command in block.text.splitlines())
        else:
            for line in block.text.splitlines():
                assert bare(line) in bare(shown), f"{line!r} is not shown:\n{shown}"
