"""Plot summaries, which no client of ``experiment=movies`` has: for the bases of two-sided sketches.

``python -m experiments.plots FILE OUT`` writes those of the file of reviews that are there as a CSV file.
"""

import sys

import pandas as pd


def main(file: str, out: str) -> None:
    """Columns and rows as they were, less those without a text."""
    rows = pd.read_csv(file)
    rows[rows.category.eq("plot") & rows.text.notna()].to_csv(out, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
