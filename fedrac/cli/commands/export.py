"""``fedrac export RUN --to FORMAT``: a run's model for other tools."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedrac.experiment import finished_run
from fedrac.experiment.export import card
from fedrac.experiment.finished_run import FinishedRun

if TYPE_CHECKING:
    from fedrac.experiment.export.lora import Pair

RANK = 16


def main(argv: Sequence[str]) -> int:
    """Writes the model that a run has found into a folder, with a model card.

    Raises:
        FileNotFoundError: the folder is not that of a run, or the run has no checkpoint.
        FileExistsError: there is something where the export would go.
        ValueError: the model cannot be written in this format.
    """
    arguments = _parser().parse_args(argv)
    folder: Path = arguments.output or arguments.run / f"export-{arguments.to}"
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: give another folder by --output")
    rank = _rank(arguments.rank)
    run = finished_run.read(arguments.run)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        notes = _write(run, part, arguments.to, rank)
        card.write(run, part, arguments.to, notes)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print("\n".join(filter(None, [notes, f"the model after round {run.round} is in {folder}"])))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedrac export", description="A run's model for other tools.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's output_dir")
    parser.add_argument(
        "--to",
        choices=("hf", "peft", "safetensors"),
        required=True,
        help="hf: the merged model, for from_pretrained; peft: its update as a LoRA adapter; safetensors: a state dict",
    )
    parser.add_argument(
        "--rank", default=str(RANK), help=f"of the adapter (peft); full: that of the update itself; default {RANK}"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: export-FORMAT in the run's folder")
    return parser


def _rank(text: str) -> int | None:
    if text == "full":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--rank {text}: give a whole number of at least 1, or full")
    return int(text)


def _write(run: FinishedRun, folder: Path, to: str, rank: int | None) -> str:
    """Returns what is to be said of the export."""
    if to == "safetensors":
        from safetensors.torch import save_file

        save_file(run.weights, folder / "model.safetensors")
        return ""
    _need("transformers", "peft")
    if to == "hf":
        from fedrac.experiment.export import pretrained

        pretrained.save(run, folder)
        return ""
    from fedrac.experiment.export import lora

    return _shares(lora.save(run, folder, rank))


def _shares(pairs: Mapping[str, "Pair"]) -> str:
    """How much of the update the adapter keeps, in squared Frobenius norm."""
    kept, total = sum(p.kept for p in pairs.values()), sum(p.total for p in pairs.values())
    rows = [f"- {path}: rank {len(p.A)}, {p.kept / (p.total or 1.0):.1%}" for path, p in pairs.items()]
    share = kept / total if total else 1.0
    return "\n".join([f"The adapter keeps {share:.1%} of the update (squared Frobenius norm):", "", *rows])


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise ValueError(f"the package {package} is missing: pip install 'fedrac[hf]'")
