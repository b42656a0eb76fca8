"""``fedrac predict RUN [FILE]``: what a run's model says, as JSON lines."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Prints one JSON object an example.

    Raises:
        FileNotFoundError: the run or the file is not there.
        ValueError: the file, or standard input, does not hold what the model takes.
    """
    parser = argparse.ArgumentParser(prog="fedrac predict", description="What the model of a run says.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output_dir")
    parser.add_argument(
        "file",
        nargs="?",
        default="-",
        metavar="FILE",
        help="texts (.txt: one a line; .csv, .tsv, .jsonl, .parquet: the run's columns), rows of a table, or .npy: "
        "inputs (N, ...) as the model takes them; without it, standard input: a text a line",
    )
    parser.add_argument("--tokens", type=int, default=40, help="that a language model writes on; default 40")
    arguments = parser.parse_args(argv)
    from fedrac.experiment import finished_run
    from fedrac.experiment.prediction import ROWS, Predictor

    predictor = Predictor(finished_run.read(arguments.run), arguments.tokens)
    if arguments.file == "-":
        answers = predictor.of_lines(sys.stdin, 1 if sys.stdin.isatty() else ROWS)
    else:
        answers = predictor.of_file(Path(arguments.file).expanduser())
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    return 0
