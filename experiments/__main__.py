"""``python -m experiments RUNS DOCS``: writes ``DOCS/results.md`` and its figures from the runs in ``RUNS``."""

import sys
from collections.abc import Callable
from pathlib import Path

from experiments import communication, counterexample, family, federated, federated_theory, mnist, movies, regression
from fedrac.results.record import write_atomically

HERE = Path(__file__).parent
SECTIONS: dict[str, tuple[str, Callable[[Path, Path], str]]] = {
    "counterexample": (counterexample.TITLE, counterexample.section),
    "linear_regression": ("Linear regression (Figure 2)", regression.linear),
    "logistic_regression": ("Logistic regression (Figure 3)", regression.logistic),
    "table3": ("MNIST, nine methods (Table 3)", mnist.table3),
    "table5": ("MNIST, epochs a block (Table 5)", mnist.table5),
    "federated_theory": (federated_theory.TITLE, federated_theory.section),
    "federated": (federated.TITLE, federated.section),
    "communication": (communication.TITLE, communication.section),
    "family": (family.TITLE, family.section),
    "movies": (movies.TITLE, movies.section),
}


def main(folder: Path, docs: Path) -> None:
    """Writes the page. A section without runs says so."""
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    parts = [(HERE / "results.md").read_text().rstrip()]
    for name, (title, section) in SECTIONS.items():
        text = section(folder / name, figures)
        remarks = HERE / "remarks" / f"{name}.md"
        parts.append(f"## {title}\n\n`make paper-{name}` runs `experiments/{name}.sh`.\n\n{text}")
        if remarks.exists():
            parts.append(remarks.read_text().rstrip())
    write_atomically(docs / "results.md", "\n\n".join(parts) + "\n")
    for picture in figures.glob("*.png"):  # the page shows the SVG
        picture.unlink()
    print(f"wrote {docs / 'results.md'}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m experiments RUNS DOCS")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
