"""``fedrac report``: what a folder of runs shows, as one HTML file, figures and tables.

`runs` reads the folder, `compare` says what distinguishes the runs and puts seeds together, `style` and `draw` hold how
things look (also for figures of other kinds), `draw_clients` what clients have, `table` and `tables` the numbers;
`page` puts all into one file.
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
    from fedrac.results.report import draw, draw_clients, page, table, tables  # matplotlib takes most of a second

    (output / "figures").mkdir(parents=True, exist_ok=True)
    for old in (*(output / "figures").glob("*.svg"), *(output / "figures").glob("*.png")):
        old.unlink()  # of an earlier report, of other runs
    shown = tables.all_tables(comparison)
    for each in shown:
        each.save(output)
    figures = [each for kind in (draw.curves, draw_clients.figures) for each in kind(comparison, output / "figures")]
    write_atomically(output / "report.html", page.html(folder, comparison, shown, figures, skipped))
    return Report(output / "report.html", table.as_lines(shown[0].rows), len(skipped))
