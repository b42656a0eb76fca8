"""A figure as a part of a page: its text is text there, and its ink is that of the page, light or dark."""

import re
from html import escape
from pathlib import Path

from fedrac.results.report.style import GRID, INK, PAPER

_COLOURS = {INK: "var(--ink)", "#000000": "var(--ink)", GRID: "var(--rule)", PAPER: "none"}
_COLOUR = re.compile("|".join(_COLOURS), re.IGNORECASE)
_NAMED = re.compile(r'(\bid="|\burl\(#|href="#)')


def svg(path: Path, words: str, number: int) -> str:
    """The element ``<svg>`` of a file.

    Args:
        path: of the file, as Matplotlib wrote it.
        words: what it shows, for those who do not see it.
        number: of the figure in its page, so that names in it are its own.
    """
    text = path.read_text()
    start = text.index("<svg")
    head, body = text[start:].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, path
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    body = _COLOUR.sub(lambda found: _COLOURS[found[0].lower()], body)
    body = _NAMED.sub(rf"\g<1>f{number}-", body)
    return f'<svg {box[0]} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{escape(words)}">{body}'
