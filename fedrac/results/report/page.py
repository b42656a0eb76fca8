"""The report as one HTML file that needs no other."""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from fedrac.results.report.compare import Comparison, key_name
from fedrac.results.report.draw import Drawing
from fedrac.results.report.runs import Skipped
from fedrac.results.report.style import show_seconds
from fedrac.results.report.table import Row, cells

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1.5rem;
  max-width: 84rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
p { max-width: 46rem; } .quiet { color: #555; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #e5e5e5; }
th { border-bottom: 2px solid #999; vertical-align: bottom; } th.key, td.key { text-align: left; }
td.wrap { white-space: normal; overflow-wrap: anywhere; }
.figures { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; break-inside: avoid; } figure img { width: 100%; max-width: 34rem; height: auto; display: block; }
figure.wide { grid-column: 1 / -1; } figure.wide img { max-width: 68rem; }
figcaption { font-size: .85rem; color: #555; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media print { body { padding: 0; font-size: 11px; max-width: none; } .scroll { overflow: visible; }
  .figures { grid-template-columns: repeat(2, 1fr); } h2 { break-after: avoid; } }
"""


def html(
    folder: Path, comparison: Comparison, rows: Sequence[Row], figures: Sequence[Drawing], skipped: Sequence[Skipped]
) -> str:
    """The whole page."""
    body = [
        f"<h1>{escape(folder.absolute().name)}</h1>",
        f'<p class="quiet">{escape(_facts(comparison))}</p>',
        *_results(rows),
        *_figures(figures),
        *_differences(comparison),
        *_runs(comparison),
        *_skipped(skipped),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(folder.absolute().name)} - fedrac report</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _facts(comparison: Comparison) -> str:
    runs = comparison.runs
    seconds = sum(float(run.total("seconds")[-1]) for run in runs)
    versions = {k: v for run in runs for k, v in run.versions.items()}
    made = "; ".join(f"{name} {versions[name]}" for name in ("fedrac", "torch", "flwr", "machine") if name in versions)
    count = f"{len(runs)} runs of {len(comparison.groups)} kinds" if len(runs) > 1 else "One run"
    return f"{count}, {show_seconds(seconds)} of rounds in all. {made}"


def _results(rows: Sequence[Row]) -> Iterator[str]:
    yield "<h2>Results</h2>"
    header, lines = cells(rows)
    yield _table(header, lines, keys=len(rows[0].values))
    if any(row.runs > 1 for row in rows):
        yield "<p class='quiet'>Mean ± standard deviation over seeds; metrics are those after the last round. "
        yield "In the figures, lines are means over seeds and bands one standard deviation on either side.</p>"
    else:
        yield "<p class='quiet'>Metrics are those after the last round.</p>"


def _figures(figures: Sequence[Drawing]) -> Iterator[str]:
    for section, drawings in groupby(figures, key=lambda drawing: drawing.section):
        yield f'<h2>{escape(section)}</h2>\n<div class="figures">'
        for drawing in drawings:
            data = base64.b64encode(drawing.path.with_name(f"{drawing.path.name}.svg").read_bytes()).decode()
            wide = ' class="wide"' if drawing.path.name.startswith("clients_") else ""
            caption = escape(drawing.caption)
            yield f'<figure{wide}><img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
            yield f"<figcaption>{caption}</figcaption></figure>"
        yield "</div>"


def _differences(comparison: Comparison) -> Iterator[str]:
    yield "<h2>What differs</h2>"
    if not comparison.differences:
        yield "<p>Nothing but the seed.</p>"
        return
    lines = [
        [key, key_name(key) if key_name(key) != key else "", ", ".join(map(str, values))]
        for key, values in comparison.differences.items()
    ]
    yield _table(["key", "called here", "values"], lines, keys=3, wrap=True)


def _runs(comparison: Comparison) -> Iterator[str]:
    lines = [
        [run.name, group.label, str(run.seed), f"{run.rounds} of {run.planned}", "; ".join(run.remarks)]
        for group in comparison.groups
        for run in group.runs
    ]
    yield f"<details><summary>The {len(lines)} runs that are shown</summary>"
    yield _table(["folder", "settings", "seed", "rounds", "remarks"], lines, keys=5, wrap=True) + "</details>"


def _skipped(skipped: Sequence[Skipped], most: int = 200) -> Iterator[str]:
    if not skipped:
        return
    opened = " open" if len(skipped) <= 20 else ""
    yield f"<h2>Left out</h2><details{opened}><summary>{len(skipped)} files or folders</summary>"
    rest = [["…", f"and {len(skipped) - most} more"]] if len(skipped) > most else []
    yield _table(["what", "why"], [*map(list, skipped[:most]), *rest], keys=2, wrap=True) + "</details>"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]], keys: int, wrap: bool = False) -> str:
    """``keys``: how many columns, from the left, hold words."""

    def line(tag: str, texts: Sequence[str]) -> str:
        looks = [" ".join(["key"] * (i < keys) + ["wrap"] * wrap) for i in range(len(texts))]
        entries = (f'<{tag} class="{look}">{escape(text)}</{tag}>' for look, text in zip(looks, texts, strict=True))
        return f"<tr>{''.join(entries)}</tr>"

    rows = "\n".join(line("td", texts) for texts in lines)
    return f'<div class="scroll"><table><thead>{line("th", header)}</thead>\n<tbody>{rows}</tbody></table></div>'
