"""Movie reviews: a sentence encoder adapted by clients that are movies, tested on movies of no client."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import few_numbers
from experiments.federated import Kind, grid_table, label, place
from experiments.recorded import finished, grouped, made, mean_sd, percent, runs, table
from fedrac.results.report import style
from fedrac.results.report.runs import Run

TITLE = "Movie reviews (MiniLM)"
OURS = "Fed-RAC-LoRA"


def section(folder: Path, figures: Path) -> str:
    """The part of the page, and its figure."""
    found, fewer, longer = (finished(runs(folder / part)) for part in ("rounds", "bytes", "longer"))
    if not found:
        return made([])
    grid, few = runs(folder / "grid"), finished(runs(folder / "few"))
    _draw(_kinds(found), longer, figures / "movies")
    return "\n\n".join(
        [
            _setting(found[0]),
            *_words(folder / "tfidf.txt"),
            "At equal rounds:",
            _table(_kinds(found)),
            "At equal bytes: as many whole rounds as the bytes of Fed-RAC-LoRA pay for, and at least one:",
            _table(_kinds([*(run for run in found if _name(run) == OURS), *fewer])),
            *(
                ["Fed-RAC-LoRA has not converged by then. In twice the rounds:", _table(_kinds(longer))]
                if longer
                else []
            ),
            "![Accuracy over rounds and bytes](figures/movies.svg)",
            *filter(None, [few_numbers.part(few, finished(runs(folder / "few_grid")))]),
            "<details><summary>Learning rates: accuracy on held-out training movies, one seed; chosen in bold</summary>"
            f"\n\n{grid_table(grid)}\n\n</details>",
            made([*found, *fewer, *longer, *few, *grid]),
        ]
    )


def _setting(run: Run) -> str:
    keys = ("model.layers", "rank", "rounds", "cohort.size", "local.batch_size", "data.max_length")
    layers, rank, rounds, cohort, batch, length = (run.config[key] for key in keys)
    return (
        "Fresh or rotten? 12,808 snippets of reviews of 508 movies: 406 movies are the clients, and the test is on the "
        f"other 102. The model is the lower {layers} layers of MiniLM-L6 with a new linear head on the mean of a "
        f"text's tokens; the upper two of these layers are adapted at rank {rank}, the head is trained in full. "
        f"{rounds} rounds of {cohort} movies, one local epoch in batches of {batch}, AdamW with a linear schedule, "
        f"texts of up to {length} tokens. FFA-LoRA is AsymmLoRA with the right sketch. Accuracy on the test in per "
        "cent, mean and standard deviation over seeds."
    )


def _words(path: Path) -> list[str]:
    """What `experiments.tfidf` printed."""
    if not path.exists():
        return []
    return [
        "Without a language model, all training texts in one place (`python -m experiments.tfidf FILE`):",
        f"```\n{path.read_text().rstrip()}\n```",
    ]


def _name(run: Run) -> str:
    return str(run.config["method.name"])


def _kinds(found: Sequence[Run]) -> dict[Kind, list[Run]]:
    kinds = grouped(found, "method.name", "method.side")
    return {(name, side): kinds[name, side] for name, side in sorted(kinds, key=place)}


def _table(kinds: dict[Kind, list[Run]]) -> str:
    rows = []
    for kind, members in kinds.items():
        uploaded = [float(run.total("upload_bytes")[-1]) for run in members]
        rows.append(
            [
                label(kind),
                f"{members[0].rounds}",
                style.show_bytes(sum(uploaded) / len(uploaded)),
                str(len(members)),
                mean_sd([float(run.columns["test/accuracy"][-1]) for run in members], percent),
            ]
        )
    return table(["method", "rounds", "uploaded by all", "seeds", "accuracy"], rows)


def _draw(kinds: dict[Kind, list[Run]], longer: Sequence[Run], path: Path) -> None:
    looks = style.styles([name for name, _ in kinds])
    lines = [(label(kind), members, look) for (kind, members), look in zip(kinds.items(), looks, strict=True)]
    if longer:
        lines.append((f"{OURS}, longer", list(longer), {**looks[0], "linestyle": "--"}))
    with style.figure(8.4, 3.8) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, column in zip(panels, ("round", "upload_bytes"), strict=True):
            totals = []
            for name, members, look in lines:
                known = np.isfinite(members[0].columns["test/accuracy"])
                x = members[0].columns["round"] if column == "round" else members[0].total(column)
                values = [run.columns["test/accuracy"][known] for run in members]
                style.band(axes, x[known], values, name, marker="o", **look)
                totals.append(float(x[-1]))
            style.label_metric(axes, "test/accuracy", [1.0])
            style.label_progress(axes, column, totals)
        panels[1].set_ylabel("")
        style.legend(figure, panels[0])
        style.save(figure, path)
