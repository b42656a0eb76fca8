"""What settings from elsewhere may name: refused before anything is imported, at any depth."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedrac import data, models
from fedrac.data import metrics
from fedrac.loading import limits, target
from fedrac.loading.limits import Limits, Refused
from fedrac.partition import partition
from fedrac.protocol.policy import STRICT, Policy

CSV = "a,label\n1,0\n2,1\n3,0\n4,1\n5,0\n6,1\n7,0\n8,1\n9,0\n10,1\n"


@pytest.fixture
def strict() -> Iterator[None]:
    with limits.within(STRICT.policy.limits()):
        yield


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a file where it is imported, and another one where its function is called."""
    (tmp_path / "trapped.py").write_text(
        f"import pathlib\nimport numpy as np\nhere = pathlib.Path({str(tmp_path)!r})\n(here / 'imported').touch()\n"
        "def load(*_, **__):\n    (here / 'called').touch()\n"
        "    return (np.zeros((2, 1)), np.arange(2)), (np.zeros((2, 1)), np.arange(2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("trapped", None)


def sprung(trap: Path) -> list[str]:
    return [name for name in ("imported", "called") if (trap / name).exists()]


TABLE = {"_target_": "fedrac.data.table.table", "path": None, "target": "label"}
CRAFTED: dict[str, dict[str, Any]] = {
    "a module": {"_target_": "trapped.load"},
    "nested": {**TABLE, "path": {"_target_": "trapped.load"}},
    "nested in a list": {**TABLE, "features": ["a", [{"x": {"_target_": "trapped.load"}}]]},
    "an interpolation": {**TABLE, "path": "${oc.create:{_target_:trapped.load}}"},
    "the environment": {**TABLE, "target": "${oc.env:HOME}"},
    "Hydra's own key": {**TABLE, "_partial_": True},
    "arguments": {**TABLE, "_args_": [{"_target_": "trapped.load"}]},
    "the built-in open": {"_target_": "builtins.open", "file": "written", "mode": "w"},
    "a method": {"_target_": "pathlib.Path.write_text", "self": "written", "data": "x"},
    "an evaluator": {"_target_": "pandas.eval", "expr": "1"},
    "through a loader's imports": {"_target_": "fedrac.data.mnist.np.load", "file": "x", "allow_pickle": True},
    "a helper that writes": {"_target_": "fedrac.data.idx.write", "path": "written", "values": 1},
    "a helper that reads": {"_target_": "fedrac.data.table.parts", "path": "x", "target": "y"},
    "a model as data": {"_target_": "fedrac.models.mlp"},
    "nested loader": {**TABLE, "features": {**TABLE, "path": "/etc/passwd"}},
    "no string": {"_target_": 3},
}


@pytest.mark.parametrize("spec", CRAFTED.values(), ids=CRAFTED)
def test_nothing_else_is_imported_or_called(spec: dict[str, Any], strict: None, trap: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(ValueError) as refusal:
        data.load(spec)
    assert isinstance(refusal.value, Refused) or spec["_target_"] == 3
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not sprung(trap) and new <= {"fedrac", "hydra", "omegaconf", "antlr4", "yaml", "_yaml"}
    assert not Path("written").exists()


def test_the_trap_works(trap: Path) -> None:
    """And whoever calls from his own program may name his own module."""
    data.load({"_target_": "trapped.load"})
    assert sprung(trap) == ["imported", "called"]


def test_models_metrics_and_schemes_too(strict: None, trap: Path) -> None:
    with pytest.raises(Refused, match=r"model\._target_='torch\.nn\.Linear' may not be named, by models of the policy"):
        models.build({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, 0)
    with pytest.raises(Refused, match=r"data\.metrics='trapped\.load' may not be named, by functions"):
        metrics.check(["trapped.load"], "classification")
    digits = data.load({"_target_": "fedrac.data.mnist.embedded", "classes": [0, 1]})
    with pytest.raises(Refused, match=r"partition\.scheme='trapped\.load'"):
        partition.make({"scheme": "trapped.load"}, digits, 0)
    assert not sprung(trap)


def test_an_operator_adds_whole_paths(trap: Path) -> None:
    with limits.within(Policy(loaders=("trapped.load",)).limits()):
        assert len(data.load({"_target_": "trapped.load"}).train) == 2
        for path in ("trapped.np.load", "trapped.np.zeros", "trapped", "fedrac.data.mnist.embedded"):
            with pytest.raises(Refused):
                data.load({"_target_": path})


def test_fedracs_own_are_those_of_its_options() -> None:
    for group in ("data", "model"):
        files = sorted((limits.config_dir() / group).glob("*.yaml"))
        texts = "\n".join(file.read_text() for file in files if file.stem != "custom")
        assert limits.own(group) and all(f"_target_: {path}\n" in f"{texts}\n" for path in limits.own(group))
        for path in limits.own(group):
            assert callable(target.function(path, group)) and path.startswith(("fedrac.data.", "fedrac.models."))
    assert yaml.safe_load((limits.config_dir() / "data/table.yaml").read_text())["_target_"] in limits.own("data")


def test_limits_within_limits_are_never_wider() -> None:
    one = Limits()
    with limits.within(one):
        with limits.within(None):
            assert limits.current() is one
        assert limits.current() is one
    assert limits.current() is None


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that is allowed, and a file outside it."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "mine.csv").write_text(CSV)
    (tmp_path / "other.csv").write_text(CSV)
    (inside / "link.csv").symlink_to(tmp_path / "other.csv")
    return inside, tmp_path / "other.csv"


def test_files_below_the_folders_only(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = places
    monkeypatch.chdir(outside.parent)
    with limits.within(Policy(folders=(str(inside),)).limits()):
        assert len(data.load({**TABLE, "path": str(inside / "mine.csv")}).train) == 8
        for path in (
            str(outside),
            str(inside / ".." / "other.csv"),
            str(inside / "link.csv"),
            "other.csv",
            "./other.csv",
        ):
            with pytest.raises(Refused, match="lies in no folder that may be read, by folders"):
                data.load({**TABLE, "path": path})
            with pytest.raises(Refused):
                data.load({**TABLE, "path": str(inside / "mine.csv"), "test_path": path})
        for place in ("tokenizer", "hub_name", "text"):
            with pytest.raises(Refused):
                data.load({"_target_": "fedrac.data.text.text", place: str(outside.parent)})
        with pytest.raises(Refused):
            models.build({"_target_": "fedrac.models.hf.checkpoint", "checkpoint": str(outside.parent)}, 0)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "~/x", "~nobody-of-this-name/x", "/etc/\0", "/" + "x" * 5000])
def test_what_is_not_there_is_refused_alike(path: str, strict: None) -> None:
    """So that nobody learns which files there are."""
    with pytest.raises(Refused, match="lies in no folder"):
        data.load({**TABLE, "path": path})


def test_names_on_a_hub_and_columns_are_no_files(strict: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "label").write_text("a column may be called as a file here")
    limits.check_spec({**TABLE, "target": "label", "features": ["a/b", "label"]}, "data")
    limits.check_spec({"_target_": "fedrac.models.hf.checkpoint", "checkpoint": "owner/name"}, "model")
