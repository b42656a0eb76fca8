"""``fedrac report``: what a folder of runs shows, as one HTML file, figures and tables.

`runs` reads the folder, `compare` says what distinguishes the runs and puts seeds together, `style` and `draw` hold how
things look (also for figures of other kinds), `table` and `page` write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrac.results.record import write_atomically
from fedrac.results.report.compare import Comparison, compare
from fedrac.results.report.runs import find


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the HTML file.
        table: the results as lines for a terminal.
        skipped: how many files and folders were not used.
    """

    page: Path
    table: Sequence[str]
    skipped: int


def write(folder: Path, output: Path) -> Report:
    """Reports on the runs in ``folder``.

    Raises:
        ValueError: there is no run with a finished round.
    """
    runs, skipped = find(folder, output)
    if not runs:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in skipped[:10])
        raise ValueError(f"{folder} has no run with a finished round; give the folder of one or more runs{reasons}")
    comparison = compare(runs)
    return _write(comparison, [*skipped, *comparison.left_out], folder, output)


def _write(comparison: Comparison, skipped: Sequence[tuple[str, str]], folder: Path, output: Path) -> Report:
    from fedrac.results.report import draw, page, table  # matplotlib takes most of a second

    (output / "figures").mkdir(parents=True, exist_ok=True)
    rows = table.rows(comparison)
    write_atomically(output / "table.csv", table.as_csv(rows))
    write_atomically(output / "table.md", table.as_markdown(rows))
    figures = draw.all_figures(comparison, output / "figures")
    write_atomically(output / "report.html", page.html(folder, comparison, rows, figures, skipped))
    return Report(output / "report.html", table.as_lines(rows), len(skipped))
