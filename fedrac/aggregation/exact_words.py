"""Numbers as words whose sums over parties are exact, in whatever order they come and under masks that cancel.

A number is a whole multiple of 2^-64, in digits of 16 bits, which have the room of a word of 32: so up to 2^15 parties
can be added up before a digit overflows into its neighbour.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

DTYPE = torch.int32
PARTIES = 2**15
_UNIT = 2**64
_DIGIT, _DIGITS = 16, 12  # bits of a digit, and digits of a number
_LARGEST = 2.0**100


def encode(numbers: Sequence[float]) -> Tensor:
    """(`length`,) words of one party.

    Raises:
        ValueError: a number is not finite, or larger than 2^100.
    """
    if not all(abs(number) < _LARGEST for number in numbers):
        raise ValueError("a number is too large to be added up exactly")
    whole = [int(Fraction(number) * _UNIT) % 2 ** (_DIGIT * _DIGITS) for number in numbers]
    digits = [number >> _DIGIT * place & 2**_DIGIT - 1 for number in whole for place in range(_DIGITS)]
    return torch.tensor(digits, dtype=DTYPE)


def length(numbers: int) -> int:
    """Words of so many numbers."""
    return numbers * _DIGITS


def decode(total: Tensor) -> list[Fraction]:
    """The sums of the numbers, of the sum of all parties' words."""
    return [_number(digits) for digits in total.reshape(-1, _DIGITS).tolist()]


def _number(digits: Sequence[int]) -> Fraction:
    bits = _DIGIT * _DIGITS
    whole = sum(digit << _DIGIT * place for place, digit in enumerate(digits)) % 2**bits
    return Fraction(whole - 2**bits if whole >= 2 ** (bits - 1) else whole, _UNIT)
