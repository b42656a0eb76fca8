"""From what was measured to the table of ratios, and to JSON."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import language
from benchmarks.driver import PEERS
from benchmarks.series import Series
from benchmarks.workloads import WORKLOADS
from fedrac.results.record import versions

Found = Mapping[tuple[str, str], Series]
Models = Mapping[str, Mapping[str, language.Values]]
GB = 1e9


@dataclass(frozen=True)
class Goal:
    """A ratio of two sides' times that should be at least, or at most, ``bound``.

    Attributes:
        text: what it says.
        group: where both were measured, in turn.
        over, under: the sides, numerator and denominator.
        bound: positive: at least; negative: at most its absolute value.
        per_example: seconds for an example instead of a round.
    """

    text: str
    group: str
    over: str
    under: str
    bound: float
    per_example: bool = False


GOALS = (
    Goal("W1, in process / JAX", "W1", "W1 ours", "W1 jax", -1.0),
    Goal("W2, in process / JAX", "W2", "W2 ours", "W2 jax", -0.3),
    Goal("W4, in process / JAX", "W4", "W4 ours", "W4 jax", -0.4),
    Goal("W1, plain loop / in process", "W1", "W1 loop", "W1 ours", 14),
    Goal("W1, plain Flower app / in process", "W1", "W1 flower-peer", "W1 ours", 90),
    Goal("W1, pfl / in process", "W1", "W1 pfl", "W1 ours", 17),
    Goal("W1, plain Flower app / flwr run", "W1", "W1 flower-peer", "W1 flower", 5),
    Goal("W4, plain Flower app / flwr run", "W4", "W4 flower-peer", "W4 flower", 25),
    Goal("W1, in process / floor", "W1", "W1 ours", "W1 floor", -3.0),
    Goal("W2 / W1, in process, per example", "W2", "W2 ours", "W1 ours", -1.5, per_example=True),
    Goal("W3, 100,000 clients / 1,000 clients", "W3", "W3 ours", "W3-1000 ours", -1.2),
    Goal("W5, plain loop / in process", "W5", "W5 loop", "W5 ours", 1.4),
    Goal("W5-32, plain loop / in process", "W5-32", "W5-32 loop", "W5-32 ours", 1.0),
)
SHELL_SECONDS, W3_BYTES = 6.0, 2e9


def result(text: str, values: Sequence[float], bound: float) -> dict[str, Any]:
    """Median and range of a goal's values, and whether the median meets the bound."""
    value = statistics.median(values)
    met, sign = (value >= bound, ">=") if bound > 0 else (value <= -bound, "<=")
    spread = {"low": min(values), "high": max(values)}
    return {"goal": text, "value": value, **spread, "bound": f"{sign} {abs(bound):g}", "met": met}


def goals(found: Found, shell: Sequence[float], models: Models | None = None) -> list[dict[str, Any]]:
    """Every goal whose sides were measured; a ratio is taken in each repetition.

    Args:
        found: by group and side.
        shell: seconds to the first round.
        models: by workload and side, whole runs of language models, made once.
    """
    results = []
    for goal in GOALS:
        pair = [found.get((goal.group, name)) for name in (goal.over, goal.under)]
        if pair[0] and pair[1]:
            columns = (one.per_repetition(goal.per_example) for one in pair if one)
            ratios = [over / under for over, under in zip(*columns, strict=False)]
            results.append(result(goal.text, ratios, goal.bound))
    if large := found.get(("W3", "W3 ours")):
        results.append(result("W3, peak memory without mapped files (GB)", [large.private / GB], -W3_BYTES / GB))
    results += [result(text, [value], -most) for text, value, most in language.goals(models or {})]
    if shell:
        results.append(result("shell to first round of the default (s)", shell, -SHELL_SECONDS))
    return results


def frozen_share(found: Found) -> dict[str, float]:
    """By workload: the share of a round in process that its products with the frozen weights take by themselves."""
    floors = [(group, name) for group, name in found if name.endswith(" floor")]
    pairs = {
        name.split()[0]: (found[group, name], found[group, name.replace("floor", "ours")]) for group, name in floors
    }
    return {
        w: statistics.median(f.per_repetition()) / statistics.median(o.per_repetition()) for w, (f, o) in pairs.items()
    }


def table(series: Sequence[Series], results: Sequence[Mapping[str, Any]], shares: Mapping[str, float]) -> str:
    """Both tables as text, and the shares of the frozen products."""
    heads = ("a round", "range", "clients/s", "first round", "memory", "private", "threads")
    lines = [_row("", heads), *(_measured(one) for one in series)]
    lines += ["", f"{'':48}{'ratio':>8}{'range':>17}   wanted"]
    for r in results:
        spread = f"{r['low']:.2f} - {r['high']:.2f}"
        lines.append(f"{r['goal']:48}{r['value']:8.2f}{spread:>17}   {r['bound']:8} {'met' if r['met'] else 'NOT met'}")
    lines += [f"\n{w}: products with the frozen weights are {share:.0%} of a round" for w, share in shares.items()]
    return "\n".join(lines)


def _measured(one: Series) -> str:
    times = [1e3 * seconds for seconds in one.per_repetition()]
    median = statistics.median(times)
    cells = [f"{median:.1f} ms", f"{min(times):.1f} - {max(times):.1f}"]
    cells += [f"{1e3 * WORKLOADS[one.name.split()[0]].cohort / median:,.0f}", f"{statistics.median(one.first):.1f} s"]
    cells += [f"{one.resident / 1e6:,.0f} MB", f"{one.private / 1e6:,.0f} MB", str(one.threads)]
    return _row(one.name, cells)


def _row(name: str, cells: Sequence[str]) -> str:
    widths = (12, 20, 11, 13, 11, 11, 9)
    return f"{name:15}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def machine() -> dict[str, Any]:
    """Where this ran, and with which versions."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": (models or [platform.machine()])[0], "cores": os.cpu_count(), "memory": memory, **_versions()}


def _versions() -> dict[str, Any]:
    return {"versions": {**versions(), **_peers(), "hydra-core": importlib.metadata.version("hydra-core")}}


def _peers() -> dict[str, str]:
    """Their versions; each is asked in its own environment."""
    return {name: _version_in(python, name) if python.exists() else "not installed" for name, python in PEERS.items()}


def _version_in(python: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True).stdout.strip()


def as_json(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Everything that was measured, with medians."""
    return [{**asdict(one), "median": statistics.median(one.per_repetition())} for one in series]
