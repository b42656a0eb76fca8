"""The examples run as they stand, and so do the lines with which the package introduces itself."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pandas as pd
import pytest
import torch
import twins
from runs import equal
from safetensors.torch import load_file

import fedrac

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where processes find this fedrac."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), str(Path(twins.__file__).parent)]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error::FutureWarning", str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "own_data.py",
        "quickstart.ipynb",
        "sweep_to_pandas.py",
    }


def test_own_data(place: Path) -> None:
    said = script("own_data.py", "run")
    told = re.search(r"([\d.]+)% of the test patients are told right", said)
    assert told and float(told[1]) > 60
    saved = torch.load(place / "run" / "screening.pt")
    equal(saved, load_file(place / "run" / "checkpoint" / "weights.safetensors"))
    assert fedrac.load("run").summary["method"] == "FedAvg" and {path.name for path in place.iterdir()} == {"run"}


@pytest.mark.slow
def test_sweep_to_pandas(place: Path) -> None:
    short = (*twins.COMMAND, "rounds=2", "evaluate.every=1", "pretrain=none", "cohort.size=2")
    said = script("sweep_to_pandas.py", "sweep", *short)
    assert "Fed-RAC-LoRA" in said and "FedAvg" in said and "<Run: " in said
    assert len(fedrac.table("sweep")) == 4


@pytest.mark.slow
def test_quickstart(place: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(place)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    (told,) = [found for o in outputs if (found := re.search(r"([\d.]+)% of the test images", o.get("text", "")))]
    assert float(told[1]) > 80
    assert [o for o in outputs if "image/png" in o.get("data", {})], "the plot"
    assert not list(place.iterdir()), "it writes nothing"


@pytest.mark.slow
def test_the_lines_of_the_docstring(place: Path) -> None:
    """As they stand; what they take for granted is a model, three pairs, a folder of a run and one of a sweep."""
    tiny = (*twins.COMMAND, "pretrain=none", "cohort.size=2", "rounds=2", "evaluate.every=2")
    fedrac.run(*tiny, "output_dir=outputs/2026-11-22_18-30-11", progress=False)
    for seed in (1, 2):
        fedrac.run(*tiny, f"seed={seed}", f"output_dir=outputs/sweep/{seed}", progress=False)
    columns = [torch.from_numpy(column) for seed in range(3) for column in twins.pair(20, seed)]
    names: dict[str, Any] = {"net": twins.net(), **dict(zip(("x0", "y0", "x1", "y1", "x", "y"), columns, strict=True))}
    lines = textwrap.dedent(re.findall(r"::\n\n(.*?)\n\n`Run`", fedrac.__doc__ or "", re.S)[0])
    assert lines.count("fedrac.") == 5
    fit, *others = lines.replace("\nrun = fedrac.run", "\0run = fedrac.run").split("\0")
    exec(fit, names)
    run = names["run"]
    assert isinstance(run.history, pd.DataFrame) and run.history["round"].tolist() == list(range(51))
    assert isinstance(run.summary, dict) and type(run.model) is type(names["net"])
    assert run.history["test/loss"].iloc[-1] < run.history["test/loss"].iloc[0]
    exec("".join(others), names)
    assert names["run"].summary == fedrac.load("outputs/2026-11-22_18-30-11").summary
    assert names["frame"]["seed"].tolist() == [1, 2]
    (made,) = {path.name for path in Path("outputs").iterdir()} - {"2026-11-22_18-30-11", "sweep"}
    assert fedrac.load(f"outputs/{made}").config["cohort"]["size"] == 20
