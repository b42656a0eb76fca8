"""``fedrac status DIR``: how far a run has come, from what it leaves in its ``output_dir``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fedrac.record import read_metrics


def main(argv: Sequence[str]) -> int:
    """Prints the last finished round.

    Raises:
        FileNotFoundError: the folder is not that of a run.
    """
    parser = argparse.ArgumentParser(prog="fedrac status", description="How far a run has come.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's output_dir")
    folder: Path = parser.parse_args(argv).folder
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} has no config.yaml: give the output_dir of a run")
    lines = read_metrics(folder / "metrics.jsonl")
    metrics = {k: v for line in lines for k, v in line.items() if "/" in k}
    print(f"{len(lines)} rounds  " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if v is not None))
    return 0
