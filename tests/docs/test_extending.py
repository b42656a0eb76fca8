"""The changes of docs/extending.md, made in a copy of the code: commands run, and show what the page says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedrac.results.record import read_metrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
COPIED = ("fedrac", "conf", "server_app", "client_app", "tests/unit", "tests/conftest.py", "pyproject.toml")
FLOWER = "Your own methods in a sweep on Flower"
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
    """A new file, or a change of one: what has ``-`` or a space before it becomes what has ``+`` or a space."""
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
    """What a command, of fedrac, pytest or a shell, prints."""
    program, *arguments = shlex.split(command)
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PYTHONPATH": str(copy), "PATH": path}
    words = [*([] if program == "bash" else [sys.executable, "-m"]), program, *arguments]
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def bare(text: str) -> str:
    """Without numbers and the space around them: those differ a little from machine to machine."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*", "#", text)).strip()


def test_none_takes_more_than_two_files_beside_its_test() -> None:
    changed = {title: {block.file for block in blocks if block.file} for title, blocks in sections().items()}
    for title, files in changed.items():
        assert 1 <= len([file for file in files if not file.startswith("tests/")]) <= MOST_FILES, title


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with all changes: none is in another's way."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        (folder / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    for blocks in sections().values():
        for block in filter(lambda block: block.file, blocks):
            edit(folder, block)
    return folder


def test_every_change_can_be_made(copy: Path) -> None:
    files = {block.file for blocks in sections().values() for block in blocks if block.file}
    assert all((copy / file).exists() for file in files)
    assert all(not (ROOT / file).exists() or (ROOT / file).read_text() != (copy / file).read_text() for file in files)


@pytest.mark.slow
@pytest.mark.xdist_group("extending")
@pytest.mark.parametrize("title", [title for title in sections() if title != FLOWER])
def test_the_change_does_what_the_page_says(title: str, copy: Path) -> None:
    shown = ""
    for block in (block for block in sections()[title] if not block.file):
        if block.language == "sh":
            shown = "\n".join(run(copy, line) for line in block.text.splitlines() if not line.startswith("pytest"))
        else:
            for line in block.text.splitlines():
                assert bare(line) in bare(shown), f"{line!r} is not shown:\n{shown}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.xdist_group("flower")
def test_own_methods_are_the_same_on_flower(copy: Path) -> None:
    """Bit for bit: RoLoRA, a mean and a rule of ranks that are no part of the package, by the loop of the page."""
    (commands,) = (block.text.splitlines() for block in sections()[FLOWER] if not block.file)
    shown = "".join(run(copy, line) for line in commands)
    assert "3 runs" in shown
    kinds = ("my_methods.Alternating", "my_means.Trimmed", "my_ranks.FewAreLarge")
    for kind in kinds:
        (here,) = copy.glob(f"outputs/here/*{kind}*")
        there = copy / "outputs" / "on_flower" / kind
        ours, theirs = (load_file(folder / "checkpoint" / "weights.safetensors") for folder in (there, here))
        assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
        lines, others = (read_metrics(folder / "metrics.jsonl") for folder in (there, here))
        assert [{**line, "seconds": 0} for line in lines] == [{**line, "seconds": 0} for line in others]
        assert len(lines) == 3 and (len({line["upload_bytes"] for line in lines}) > 1) == (kind != "my_means.Trimmed")
    moved = [load_file(copy / "outputs" / "on_flower" / kind / "checkpoint" / "weights.safetensors") for kind in kinds]
    assert not any(torch.equal(moved[0]["layers.0.weight"], other["layers.0.weight"]) for other in moved[1:])


@pytest.mark.slow
@pytest.mark.xdist_group("extending")
def test_the_tests_of_the_changes_pass(copy: Path) -> None:
    """All in one process."""
    commands = [shlex.split(line) for blocks in sections().values() for b in blocks if b.language == "sh"
                for line in b.text.splitlines()]  # fmt: skip
    files = [file for program, *words in commands if program == "pytest" for file in words if file != "-q"]
    written = [b.file for blocks in sections().values() for b in blocks if b.file.startswith("tests/")]
    assert sorted(files) == sorted(written)
    run(copy, shlex.join(["pytest", "-q", *files]))
