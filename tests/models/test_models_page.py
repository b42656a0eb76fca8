"""The table of the documentation is that of the architectures."""

import re

import table
from architectures import ALL
from exactness import MODES, Outcome

TABLE = table.PAGE.read_text().split(table.BEGIN)[1].split(table.END)[0]


def test_every_architecture_has_a_row_and_none_is_wrong() -> None:
    named = re.findall(r"^\| (.+?) \| (exact|refused).*? \| (exact|refused).*? \|$", TABLE, re.MULTILINE)
    assert [name for name, *_ in named] == [a.name for a in ALL if a.family != "torchvision"]
    assert "WRONG" not in TABLE
    refused = {a.name for a in ALL if a.refused}
    assert {name for name, *modes in named if "refused" in modes} == refused


def test_what_a_cell_says() -> None:
    alike = [a for a in ALL if a.name in ("MLP", "weight_norm")]
    text = table.rows(alike)
    assert text.startswith("| layers of torch | low rank | full |\n|---|---|---|\n| MLP | exact, ")
    assert "| weight_norm | refused: layer '1': its weight is computed from other parameters" in text
    assert text.count("\n") == 3 and all(line.count("|") == 2 + len(MODES) for line in text.splitlines())
    assert table._cell(Outcome(1e-3)) == "WRONG: 1e-03" and table._cell(Outcome(float("nan"))).startswith("WRONG")
    assert table._cell(Outcome(0.0, alone="it mixes rows")) == "exact, 0, one at a time"
