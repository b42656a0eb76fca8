"""``fedrac check``: what a node's own people see of their data before a run does."""

import socket
from pathlib import Path

import pytest

from fedrac.cli import commands
from fedrac.data import own

RUN = [
    *("experiment=nodes", "data=table", "data.target=ill", "data.features=[a,b]", "data.classes=[no,yes]"),
    *("data.standardize=false", "model.inputs=2", "model.outputs=2", "pretrain=none"),
]
GOOD = "".join(f"{n / 10},{n % 7},{('no', 'yes')[n % 2]}\n" for n in range(30))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a check stays on the machine")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    own._loaded.cache_clear()


def check(folder: Path, rows: str, *arguments: str, header: str = "a,b,ill") -> int:
    (folder / "train.csv").write_text(f"{header}\n{rows}")
    return commands.run("check", [str(folder), *RUN, *arguments])


def test_data_that_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, GOOD) == 0
    said = capsys.readouterr().out
    for line in ("examples: 30", "that these columns are there: a, b, ill", "no: 15, yes: 15", "the shape (2,)"):
        assert line in said
    assert "does not fit" not in said and "doubtful" not in said


def test_what_is_hidden_is_not_said_to_be_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, GOOD, "--tell-examples", "7") == 0
    assert "examples: 7\n" in capsys.readouterr().out


@pytest.mark.parametrize("rows, header, kind, said", [
    (GOOD + "x,1,no\n", "a,b,ill", "does not fit", "would be told: ValueError: column 'a', data row 31 "),
    (GOOD + ",1,no\n", "a,b,ill", "does not fit", "column 'a' has 1 of 31 cells empty"),
    (GOOD, "a,c,ill", "does not fit", "there is no column 'b'"),
    (GOOD + "1,1,maybe\n", "a,b,ill", "does not fit", "not one of data.classes"),
    ("1,2,no\n", "a,b,ill", "does not fit", "no client here has enough examples, by least_examples"),
    (GOOD.replace("yes", "no"), "a,b,ill", "doubtful", "all examples are of one class"),
    (GOOD + "5000,1,no\n", "a,b,ill", "doubtful", "an input of 5000 is far from 1"),
    (GOOD + "0.0,0,no\n", "a,b,ill", "doubtful", "1 of 31 rows are there twice"),
    ("".join(f"{n},{n},{['no', 'yes'][n % 2]}\n" for n in range(30)), "a,b,ill", "doubtful", "'a' and 'b' are the"),
    ("".join(f"{n},1,{['no', 'yes'][n % 2]}\n" for n in range(30)), "a,b,ill", "doubtful", "'b' has the same value"),
])  # fmt: skip
def test_data_that_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: str, header: str, kind: str, said: str
) -> None:
    assert check(tmp_path, rows, header=header) == (kind == "does not fit")
    assert said in capsys.readouterr().out.partition(f"\n{kind}\n")[2]


def test_the_cell_is_for_the_nodes_own_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, GOOD + "Ms Galloway,1,no\n")
    said = capsys.readouterr()
    assert "holds 'Ms Galloway'" in said.err and "Galloway" not in said.out


def test_the_policy_is_the_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("models: [fedrac.models.cnn]\n")
    assert check(tmp_path, GOOD, "--policy", str(file)) == 1
    assert "model._target_='fedrac.models.mlp' may not be named, by models" in capsys.readouterr().out
