"""The tables of a report, and their files: CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrac.results.record import write_atomically
from fedrac.results.report import table
from fedrac.results.report.compare import Comparison, key_name
from fedrac.results.report.table import Row


@dataclass(frozen=True)
class Table:
    """One table, ready to be read.

    Attributes:
        name: of its files.
        title, note: what it shows.
        header, lines: its cells.
        keys: how many columns, from the left, hold words.
        wrap: how many columns, from the right, hold texts that may be long.
        rows: what the lines were made of, where they are measured: a CSV has plain numbers then.
    """

    name: str
    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    keys: int
    wrap: int = 0
    note: str = ""
    rows: Sequence[Row] = ()

    def save(self, folder: Path) -> None:
        """As ``NAME.csv``, ``NAME.md`` and ``NAME.tex``, where there is a line."""
        if self.lines:
            plain = table.as_csv(self.rows) if self.rows else _as_csv(self.header, self.lines)
            write_atomically(folder / f"{self.name}.csv", plain)
            write_atomically(folder / f"{self.name}.md", table.as_markdown(self.header, self.lines))
            write_atomically(folder / f"{self.name}.tex", table.as_latex(self.header, self.lines, self.keys))


def all_tables(comparison: Comparison) -> list[Table]:
    """The results, those of the best rounds and of clients where there are any, what differs, and the runs."""
    measured = (
        ("table", "Results", table.rows(comparison), _last_note(comparison)),
        ("best", "Best rounds", table.best_rows(comparison), _BEST_NOTE),
        ("clients", "What differs between clients", table.client_rows(comparison), _CLIENTS_NOTE),
    )
    found = [_measured(name, title, rows, note) for name, title, rows, note in measured if rows]
    return [*found, _differences(comparison), _runs(comparison)]


_BEST_NOTE = (
    "Every run in the round in which the metric was best on the test examples. So it is chosen by what it is measured "
    "with: an upper bound of what an earlier stop could have reached."
)
_CLIENTS_NOTE = (
    "The global model on the data of each client that tested it, after the last round with such a test; mean ± "
    "standard deviation over seeds. Worst 10 %: the mean over the tenth of the clients for which it is worst."
)


def _last_note(comparison: Comparison) -> str:
    parts = ["Metrics are those after the last round; time is without a run's first round, which loads and warms up."]
    if any(len(group.runs) > 1 for group in comparison.groups):
        parts.insert(
            0, "Mean ± standard deviation over seeds; in figures lines are means over seeds, bands one deviation."
        )
    if table.least_upload(comparison) is not None:
        parts.append("A dash at a number of bytes: the first tested round comes after more than that.")
    return " ".join(parts)


def _measured(name: str, title: str, rows: Sequence[Row], note: str) -> Table:
    header, lines = table.cells(rows)
    return Table(name, title, header, lines, len(rows[0].values), 0, note, rows)


def _differences(comparison: Comparison) -> Table:
    lines = [
        [key, key_name(key) if key_name(key) != key else "", ", ".join(map(str, values))]
        for key, values in comparison.differences.items()
    ]
    header, note = ["key", "called here", "values"], "" if lines else "Nothing but the seed."
    return Table("differences", "What differs", header, lines, 3, 1, note)


def _runs(comparison: Comparison) -> Table:
    lines = [
        [run.name, group.label, str(run.seed), f"{run.rounds} of {run.planned}", "; ".join(run.remarks)]
        for group in comparison.groups
        for run in group.runs
    ]
    title = f"The {len(lines)} runs that are shown"
    return Table("runs", title, ["folder", "settings", "seed", "rounds", "remarks"], lines, 5, 1)


def _as_csv(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    return text.getvalue()
