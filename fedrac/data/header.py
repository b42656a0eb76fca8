"""The names of a table's columns: each there once."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)


def named(frame: "DataFrame", names: Sequence[str], file: Path) -> "DataFrame":
    """The columns that have a name; one without, as an index that was written along, is left out with a warning.

    Args:
        frame: the rows.
        names: of its columns, as they are written.
        file: for the message.

    Raises:
        ValueError: two columns have one name.
    """
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise ValueError(f"{file} has more than one column {twice[0]!r}: rename or remove the others")
    if nameless := [place for place, name in enumerate(names) if not name]:
        log.warning("%s: column %d has no name and is left out", file, nameless[0] + 1)
        return frame.drop(columns=frame.columns[nameless])
    return frame
