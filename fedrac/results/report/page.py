"""The report as one HTML file that needs no other."""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import count, groupby
from pathlib import Path

from fedrac.results.report.compare import Comparison
from fedrac.results.report.draw import Drawing
from fedrac.results.report.inline import svg
from fedrac.results.report.page_style import DIALOG, SCRIPT, STYLE
from fedrac.results.report.runs import Skipped
from fedrac.results.report.style import show_seconds
from fedrac.results.report.tables import Table

_FIRST = ("table", "best", "clients")  # before the figures


def html(
    folder: Path,
    comparison: Comparison,
    tables: Sequence[Table],
    figures: Sequence[Drawing],
    skipped: Sequence[Skipped],
) -> str:
    """The whole page."""
    shown = {table.name: table for table in tables}
    body = [
        f"<h1>{escape(folder.absolute().name)}</h1>",
        f'<p class="quiet">{escape(_facts(comparison))}</p>',
        *(part for name in _FIRST if name in shown for part in _section(shown[name])),
        *_figures(figures),
        *_section(shown["differences"]),
        *_runs(shown["runs"]),
        *_skipped(skipped),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(folder.absolute().name)} - fedrac report</title><style>{STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(body)}\n{DIALOG}<script>{SCRIPT}</script></body></html>\n"
    )


def _facts(comparison: Comparison) -> str:
    runs = comparison.runs
    seconds = sum(float(run.total("seconds")[-1]) for run in runs)
    versions = {k: v for run in runs for k, v in run.versions.items()}
    made = "; ".join(f"{name} {versions[name]}" for name in ("fedrac", "torch", "flwr", "machine") if name in versions)
    count = f"{len(runs)} runs of {len(comparison.groups)} kinds" if len(runs) > 1 else "One run"
    return f"{count}, {show_seconds(seconds)} of rounds in all. {made}"


def _section(table: Table) -> Iterator[str]:
    yield f"<h2>{escape(table.title)}</h2>"
    if table.lines:
        yield _table(table)
    if table.note:
        yield f'<p class="quiet">{escape(table.note)}</p>'


def _figures(figures: Sequence[Drawing]) -> Iterator[str]:
    numbers = count(1)
    for section, drawings in groupby(figures, key=lambda drawing: drawing.section):
        yield f'<h2>{escape(section)}</h2>\n<div class="figures">'
        for drawing in drawings:
            yield _figure(drawing, next(numbers))
        yield "</div>"


def _figure(drawing: Drawing, number: int) -> str:
    picture = svg(drawing.path.with_name(f"{drawing.path.name}.svg"), drawing.caption, number)
    button = f'<button class="picture" title="larger">{picture}</button>'
    inside = _scroll(button, drawing.caption) if drawing.wide else button
    wide = ' class="wide"' if drawing.wide else ""
    return f"<figure{wide}>{inside}<figcaption>{escape(drawing.caption)}</figcaption></figure>"


def _runs(table: Table) -> Iterator[str]:
    yield f"<details><summary>{escape(table.title)}</summary>{_table(table)}</details>"


def _skipped(skipped: Sequence[Skipped], most: int = 200) -> Iterator[str]:
    if not skipped:
        return
    opened = " open" if len(skipped) <= 20 else ""
    yield f"<h2>Left out</h2><details{opened}><summary>{len(skipped)} files or folders</summary>"
    rest = [["…", f"and {len(skipped) - most} more"]] if len(skipped) > most else []
    lines = [*map(list, skipped[:most]), *rest]
    yield _table(Table("skipped", "Left out", ["what", "why"], lines, keys=2, wrap=1)) + "</details>"


def _table(table: Table) -> str:
    def line(tag: str, texts: Sequence[str]) -> str:
        last = len(texts) - table.wrap
        looks = [" ".join(["key"] * (i < table.keys) + ["wrap"] * (i >= last)) for i in range(len(texts))]
        entries = (f'<{tag} class="{look}">{escape(text)}</{tag}>' for look, text in zip(looks, texts, strict=True))
        return f"<tr>{''.join(entries)}</tr>"

    rows = "\n".join(line("td", texts) for texts in table.lines)
    grid = f"<table><thead>{line('th', table.header)}</thead>\n<tbody>{rows}</tbody></table>"
    return _scroll(grid, table.title)


def _scroll(inside: str, words: str) -> str:
    """What may be wider than the page scrolls by itself, also by the keyboard, and says so."""
    region = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(words)}">{inside}</div>'
    return f'{region}<p class="hint">It goes on to the right: scroll →</p>'
