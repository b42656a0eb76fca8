"""What nodes say is foreign: all text from them goes through `line`, all numbers through the checks beside it.

A text can be megabytes long, hold terminal codes, or lines that look like the server's own. A number can be infinite,
or so large that a sum of two is. Neither may reach a log, a record or the weights.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOT_FINITE = "is not finite"  # how the reason of such a refusal ends
LONGEST = 500  # characters of a text
MOST_EXAMPLES = 2**40  # of a client
MOST_OFFERS = 8  # digests that a host may offer
MOST_CLIENTS = 2**31  # ids lie below
LARGEST = 1e100  # loss or metric of a client: sums over as many clients as there are stay finite


def line(text: object, longest: int = LONGEST) -> str:
    """A text from a node as one printable line of at most ``longest`` characters.

    What is not printable (line ends, terminal codes, marks that change the direction of writing) is shown as Python
    writes it in a string.
    """
    whole = str(text)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def listed(field: str, value: Any) -> list[Any]:
    """
    Raises:
        TypeError: ``value`` is no list.
    """
    if not isinstance(value, list):
        raise TypeError(f"field {field} must be a list, got {value!r}")
    return value


def integers(field: str, value: Any, least: int = 0, most: int = 2**62) -> list[int]:
    """A list of integers, each in ``least .. most``.

    Raises:
        TypeError: it is none.
        ValueError: one is out of range.
    """
    if not all(type(x) is int for x in listed(field, value)):
        raise TypeError(f"field {field} must be a list of integers")
    if wrong := [x for x in value if not least <= x <= most]:
        raise ValueError(f"field {field} has {wrong[0]}, expected {least} to {most}")
    return list(value)


def numbers(field: str, value: Any) -> NDArray[np.float64]:
    """A list of numbers, (k,) float64; whether they count, `unusable` says.

    Raises:
        TypeError: it is none.
        OverflowError: an integer is beyond float64.
    """
    if not all(type(x) in (int, float) for x in listed(field, value)):
        raise TypeError(f"field {field} must be a list of numbers")
    return np.array([float(x) for x in value], np.float64)


def unusable(field: str, values: NDArray[Any], largest: float, rule: str = "product") -> dict[int, str]:
    """Place of every client with a number that cannot count, and why.

    Args:
        field: named in the reason.
        values: (k, ...), those of k clients.
        largest: bound on their absolute value.
        rule: what of larger ones would not be finite: their ``product`` or their ``sum``.
    """
    found: dict[int, str] = {}
    if not len(values):
        return found
    rows = values.reshape(len(values), -1)
    sizes = np.maximum(rows.max(1, initial=0), -rows.min(1, initial=0))  # NaN where there is one
    for place in np.flatnonzero(~(sizes <= largest)).tolist():
        size = float(sizes[place])
        known = f"is {size:.1e}: a {rule} of such {NOT_FINITE}" if math.isfinite(size) else NOT_FINITE
        found[place] = f"field {field} {known}"
    return found
