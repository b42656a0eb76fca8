"""The tables of speed from the figures of ``make bench``: all of them in docs/performance.md, W1 in the README.

The command: ``python -m benchmarks.markdown [RESULTS.json]``.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import language
from benchmarks.driver import ROOT
from benchmarks.workloads import WORKLOADS

PAGE, README, RESULTS = ROOT / "docs/performance.md", ROOT / "README.md", ROOT / "benchmarks/results/cpu2.json"
HEADS = ("workload", "who", "a round", "clients a second", "first round", "memory", "fedrac in process is faster by")
BEGIN, END = "<!-- made by python -m benchmarks.markdown -->\n", "<!-- until here -->"
WHO = {
    "ours": "fedrac, in process",
    "flower": "fedrac on `flwr run`, two SuperNodes",
    "loop": "plain PyTorch loop, one client at a time",
    "pfl": "pfl",
    "jax": "JAX, the same work as one compiled function",
    "flower-peer": "plain Flower app, one client a SuperNode, on Ray",
    "peft": "loop of transformers and PEFT, one client at a time",
    "floor": "the products with the frozen weights alone",
}


def tables(found: Mapping[str, Any]) -> str:
    """What was measured, as Markdown: a table of times, one of the ratios, and where and how they came about."""
    times = [_row(HEADS), _row("---" for _ in HEADS), *map(_row, _times(found["series"]))]
    times += map(_row, _of_models(found.get("language_models", {})))
    goals = [_row(("", "measured", "range", "wanted", "")), _row("-----"), *map(_goal, found["results"])]
    return "\n".join([*times, "", *goals, "", _about(found), ""])


def short_table(found: Mapping[str, Any]) -> str:
    """The rows of W1, the ordinary case, without those of its parts."""
    wanted = [cells[1:] for cells in _times(found["series"]) if cells[0] == "W1" and cells[1] != WHO["floor"]]
    return "\n".join([_row(HEADS[1:]), _row("---" for _ in HEADS[1:]), *map(_row, wanted), "", _about(found), ""])


def _about(found: Mapping[str, Any]) -> str:
    machine, options = found["machine"], found["options"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}"
        for name in ("torch", "flwr", "ray", "pfl", "jax")
        if name in machine["versions"]
    )
    return (
        f"Medians of {options['repetitions']} turns on {machine['cores']} cores ({machine['processor']}; {versions}). "
        "Memory is the largest private memory of all processes together."
    )


def _times(series: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row of every side, the first time it was measured."""
    seen = set()
    ours = {(one["group"], one["name"]): one["median"] for one in series if one["name"].endswith(" ours")}
    for one in series:
        workload, side = one["name"].split()
        if one["name"] in seen:
            continue
        seen.add(one["name"])
        faster = one["median"] / ours[one["group"], f"{workload} ours"]
        yield [
            workload,
            WHO[side],
            f"{_three(1e3 * one['median'])} ms",
            "" if side == "floor" else f"{WORKLOADS[workload].cohort / one['median']:,.0f}",
            f"{statistics.median(one['first']):.1f} s",
            f"{one['private'] / 1e6:,.0f} MB",
            "" if side in ("ours", "floor") else _three(faster),
        ]


def _of_models(found: Mapping[str, Mapping[str, language.Values]]) -> Iterator[list[str]]:
    """A row of every side of a whole run; how long it took to its first round is not measured."""
    for workload, sides in found.items():
        for side, values in sides.items():
            seconds = values["seconds a round"]
            yield [
                workload,
                WHO[side],
                f"{seconds:.1f} s",
                f"{language.COHORT[workload] / seconds:.2f}",
                "",
                f"{values['peak private MB']:,} MB",
                "" if side == "ours" else _three(seconds / sides["ours"]["seconds a round"]),
            ]


def _three(number: float) -> str:
    """Three digits, or as many as a larger number has."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _goal(result: Mapping[str, Any]) -> str:
    spread = f"{result['low']:.2f} to {result['high']:.2f}"
    bound = result["bound"].replace(">=", "at least").replace("<=", "at most")
    return _row((result["goal"], f"{result['value']:.2f}", spread, bound, "met" if result["met"] else "not met"))


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def updated(page: str, text: str) -> str:
    """``page`` with ``text`` between its two marks.

    Raises:
        ValueError: it has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN.strip()!r} and {END!r} for the tables to stand between")
    return before + begin + text + end + after


def main() -> None:
    """Writes the tables into the two pages."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.markdown", description="Tables of speed for docs/performance.md and the README."
    )
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, help=f"default: {RESULTS.relative_to(ROOT)}")
    found = json.loads(parser.parse_args().results.read_text())
    for page, text in ((PAGE, tables(found)), (README, short_table(found))):
        page.write_text(updated(page.read_text(), text))
    print(tables(found))


if __name__ == "__main__":
    main()
