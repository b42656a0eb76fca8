"""A sweep by the command, and what it found as a table for pandas.

    python examples/sweep_to_pandas.py [FOLDER [KEY=VALUE ...]]

The command runs every combination of two methods and two seeds, two at a time. It goes on where it stopped if it is
given again, so this script can be run again as well: then it only reads.
"""

import subprocess
import sys

import fedrac

SWEEP = ["method=fed_rac_lora,fedavg", "seed=1,2", "rounds=20", "evaluate.every=5", "sweep.jobs=2"]


def main(folder: str, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "fedrac", "-m", *SWEEP, f"sweep.dir={folder}", *overrides], check=True)

    frame = fedrac.table(folder)  # a row a run
    print(frame[["method.name", "seed", "last.test/accuracy", "upload_bytes"]])
    found = frame.groupby("method.name").agg(
        accuracy=("last.test/accuracy", "mean"),
        spread=("last.test/accuracy", "std"),
        megabytes=("upload_bytes", lambda column: column.mean() / 1e6),
    )
    print(found)

    # One of the runs, round by round.
    run = fedrac.load(f"{folder}/{frame['last.test/accuracy'].idxmax()}")
    print(run)
    print(run.history[["round", "train/loss", "test/accuracy"]].dropna())


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["outputs/methods"]))
