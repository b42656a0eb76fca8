"""``fedrac report DIR``: figures and tables of the runs in a folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedrac.results import report


def main(argv: Sequence[str]) -> int:
    """Writes the report and says where it is.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no run in it with a finished round.
    """
    parser = argparse.ArgumentParser(
        prog="fedrac report", description="Figures and tables of all runs in a folder, as one HTML file."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run's output_dir, or a folder of runs at any depth")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the report goes (default: DIR/report)")
    given = parser.parse_args(argv)
    show(given.folder, given.output or given.folder / "report")
    return 0


def show(folder: Path, output: Path) -> None:
    """Writes the report and prints its table."""
    written = report.write(folder, output)
    print("\n".join(["", *written.table, ""]))
    if written.skipped:
        print(f"{written.skipped} files or folders were left out; the report says why")
    print(f"report: {written.page}\ntables and figures: {output}", flush=True)
