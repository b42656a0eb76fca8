"""Tables 3 and 5 of the paper: an MLP pre-trained on the digits 0-4, adapted to 5-9 at rank 1, in one place."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.recorded import finished, made, mean_sd, percent, runs, table
from fedrac.results.report.runs import Run

# Method, side of the sketch, accuracy in the paper, trained parameters there.
PAPER = (
    ("FPFT", "", 98.0, "54,700"),
    ("LoRA", "right", 83.8, "1K"),
    ("COLA", "right", 92.6, "1K"),
    ("LoRA", "left", 87.0, "1K"),
    ("COLA", "left", 96.2, "1K"),
    ("AsymmLoRA", "right", 62.3, "133"),
    ("RAC-LoRA", "right", 92.0, "133"),
    ("AsymmLoRA", "left", 81.6, "912"),
    ("RAC-LoRA", "left", 96.1, "912"),
)
PAPER_BLOCKS = {
    "COLA": {1: 96.2, 2: 95.8, 3: 95.9, 4: 95.1, 5: 95.4, 10: 94.5},
    "RAC-LoRA": {1: 96.1, 2: 95.6, 3: 95.6, 4: 94.9, 5: 94.7, 10: 93.9},
}
_NAMES = {"FedAvg": "FPFT", "FedAvg-LoRA": "LoRA", "Fed-COLA": "COLA", "Fed-RAC-LoRA": "RAC-LoRA"}
_INIT = {"right": ("Gaussian", "Zero"), "left": ("Zero", "Gaussian"), "": ("-", "-")}
EPOCHS = 50  # of the table, in all; and of pre-training
Kind = tuple[str, str]


def kind(run: Run) -> Kind:
    """Name of the method in the paper, and the side of the random factor."""
    name = _NAMES.get(run.config["method.name"], run.config["method.name"])
    return name, "" if name == "FPFT" else run.config["method.side"]


def accuracies(found: Sequence[Run]) -> dict[Kind, list[float]]:
    """Test accuracy after the last round of every finished run."""
    values: dict[Kind, list[float]] = {}
    for run in finished(found):
        values.setdefault(kind(run), []).append(float(run.columns["test/accuracy"][-1]))
    return values


def table3(folder: Path, figures: Path) -> str:
    """The nine methods beside the paper's numbers."""
    found = runs(folder)
    whole = [run for run in found if _epochs(run) == EPOCHS]
    measured = accuracies([run for run in whole if run.config["pretrain.epochs"] == EPOCHS])
    rows = []
    for name, side, paper, trained in PAPER:
        own = measured.get((name, side), [])
        difference = f"{100 * float(np.mean(own)) - paper:+.1f}" if own else "-"
        rows.append([name, *_INIT[side], mean_sd(own, percent), str(len(own)), f"{paper}", difference, trained])
    header = ["method", "init A", "init B", "accuracy here", "seeds", "paper", "difference", "trained"]
    return "\n\n".join(
        [
            "Rank 1, 50 epochs in all, one epoch a block for the chained methods; test accuracy on the digits 5-9 in "
            "per cent, mean and standard deviation over seeds, each of which pre-trains a model of its own. The paper "
            "gives no deviations.",
            table(header, rows),
            _orderings({k: float(np.mean(v)) for k, v in measured.items()}),
            _earlier(found, measured),
            _pretraining(whole),
            *_moments(folder / "moments.txt"),
            made(found),
        ]
    )


def _epochs(run: Run) -> int:
    return int(run.planned * run.config["local.epochs"])


def _earlier(found: Sequence[Run], measured: Mapping[Kind, Sequence[float]]) -> str:
    """Accuracy after half the epochs: the paper stops early."""
    half = accuracies([run for run in found if _epochs(run) == EPOCHS // 2])
    for run in finished(found):
        if run.planned == EPOCHS:
            half.setdefault(kind(run), []).append(float(run.columns["test/accuracy"][EPOCHS // 2 - 1]))
    rows = [
        [
            f"{name}, {side}",
            mean_sd(half[name, side], percent),
            mean_sd(measured.get((name, side), []), percent),
            f"{paper}",
        ]
        for name, side, paper, _ in PAPER
        if (name, side) in half
    ]
    return (
        f"The paper stops on validation data, after at most {EPOCHS} epochs; nothing stops here. What an earlier stop "
        "would change:\n\n" + table(["method", f"{EPOCHS // 2} epochs", f"{EPOCHS} epochs", "paper"], rows)
    )


def _pretraining(found: Sequence[Run]) -> str:
    """AsymmLoRA, left, on models that were pre-trained for longer or shorter."""
    own = [run for run in found if kind(run) == ("AsymmLoRA", "left")]
    lengths = sorted({run.config["pretrain.epochs"] for run in own})
    values = [accuracies([run for run in own if run.config["pretrain.epochs"] == length]) for length in lengths]
    row = [mean_sd(value.get(("AsymmLoRA", "left"), []), percent) for value in values]
    return (
        "How long the model was pre-trained is not said in the paper. AsymmLoRA (left) by the epochs of that:\n\n"
        + table([*(f"{length} epochs" for length in lengths), "paper"], [[*row, "81.6"]])
    )


def _moments(path: Path) -> list[str]:
    """What `experiments.moments` printed: where a difference to the paper comes from."""
    if not path.exists():
        return []
    return [
        "The authors' code keeps AdamW's moments when a block ends, though the next block has another random basis; "
        "the library starts them anew. Both, for RAC-LoRA, in a plain loop that shares only data and initial model "
        "with the library (`python -m experiments.moments FOLDER`):",
        f"```\n{path.read_text().rstrip()}\n```",
    ]


def _orderings(mean: dict[Kind, float]) -> str:
    claims = [
        (f"{chained} above {single} ({side})", (chained, side), (single, side))
        for side in ("left", "right")
        for chained, single in (("RAC-LoRA", "AsymmLoRA"), ("COLA", "LoRA"))
    ]
    claims += [
        (f"left above right ({name})", (name, "left"), (name, "right"))
        for name in ("RAC-LoRA", "COLA", "AsymmLoRA", "LoRA")
    ]
    known = [(text, mean[a] > mean[b]) for text, a, b in claims if a in mean and b in mean]
    return (
        "Orderings of the paper: "
        + "; ".join(f"{text}: {'holds' if holds else '**does not hold**'}" for text, holds in known)
        + "."
    )


def table5(folder: Path, figures: Path) -> str:
    """Epochs a block; the runs with one epoch are those of Table 3."""
    own_runs = runs(folder)
    if not own_runs:
        return made(own_runs)
    first = [run for run in runs(folder.parent / "table3" / "chain") if run.config["method.side"] == "left"]
    found = finished([*first, *own_runs])
    blocks = sorted(PAPER_BLOCKS["COLA"])
    rows = []
    for name, paper in PAPER_BLOCKS.items():
        own = {
            block: [
                float(run.columns["test/accuracy"][-1])
                for run in found
                if kind(run)[0] == name and run.config["local.epochs"] == block
            ]
            for block in blocks
        }
        rows.append([name, "here", *(mean_sd(own[block], percent) for block in blocks)])
        rows.append([name, "paper", *(f"{paper[block]}" for block in blocks)])
    return "\n\n".join(
        [
            "The chained methods with the left sketch and more epochs a block; 50 epochs in all (51 and 48 with 3 and "
            "4 a block).",
            table(["method", "", *(f"{block} epoch{'s' * (block > 1)}" for block in blocks)], rows),
            made(found),
        ]
    )
