"""The table of docs/models.md."""

import warnings
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from architectures import ALL, Architecture
from exactness import EXACT, MODES, Outcome, outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- The table is written by `make models-table`. -->", "<!-- The end of the table. -->"


def rows(architectures: Iterable[Architecture] = ALL) -> str:
    """Markdown: a table for each family, with every architecture at low rank and in full."""
    parts = []
    for family, own in groupby(architectures, key=lambda a: a.family):
        lines = [f"| {family} | low rank | full |", "|---|---|---|"]
        lines += [f"| {a.name} | {' | '.join(_cell(outcome(a, mode)) for mode in MODES)} |" for a in own]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(found: Outcome) -> str:
    if found.difference is None:
        return f"refused: {_short(found.refused)}"
    if not found.difference < EXACT:
        return f"WRONG: {found.difference:.0e}"
    exact = f"{found.difference:.0e}" if found.difference else "0"
    return f"exact, {exact}" + (", one at a time" if found.alone else "")


def _short(message: str) -> str:
    """The first sentence, without what would end the cell."""
    return message.split(". ")[0].replace("|", "/")


def write(page: Path = PAGE) -> None:
    """Puts the table in its place between the two marks."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = rows()
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
