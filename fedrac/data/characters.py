"""A text file for a language model of characters."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrac.data.examples import Data, Examples
from fedrac.data.store import stored
from fedrac.data.tokens import Tokens

UNKNOWN = 0  # the token of a character that the training part does not have


def characters(
    path: str | None = None,
    length: int = 80,
    test_path: str | None = None,
    test_fraction: float = 0.2,
    alphabet: str | None = None,
    groups: int | None = None,
) -> Data:
    """Pieces of a text, in which each character is to be predicted from those before it.

    Token 0 is a character that is not known, token i + 1 the i-th of the alphabet.

    Args:
        path: a text file in UTF-8.
        length: characters of a piece; the last one of the text may be shorter.
        test_path: another file for testing; where None, the last ``test_fraction`` of the pieces are.
        alphabet: the characters that are told apart; where None, those of the training part, sorted.
        groups: natural clients (``partition=natural``): so many stretches of the training part, one after another.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a number that is out of range, or a text of less than two pieces.
    """
    if path is None:
        raise ValueError("data.path is not set: give a text file, e.g. data.path=/data/shakespeare.txt")
    if length < 2:
        raise ValueError(f"data.length={length}: a piece needs at least 2 characters; 80 is usual")
    if not 0 < test_fraction < 1:
        raise ValueError(f"data.test_fraction={test_fraction} must lie between 0 and 1")
    files = [Path(place).expanduser() for place in (path, test_path) if place is not None]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")

    def build() -> tuple[Examples, Examples, Sequence[str]]:
        train, test = _parts(files, length, test_fraction)
        known = alphabet or "".join(sorted(set(train)))
        pieces = _pieces(train, known, length)
        owners = None if groups is None else _stretches(len(pieces), groups)
        return Examples(pieces, None, owners), Examples(_pieces(test, known, length), None), ["\ufffd", *known]

    arguments = {"length": length, "test_fraction": test_fraction, "alphabet": alphabet, "groups": groups}
    return stored("characters.characters", arguments, "causal_lm", build, files)


def _parts(files: Sequence[Path], length: int, test_fraction: float) -> tuple[str, str]:
    text, *other = [_text(file) for file in files]
    if other:
        return text, other[0]
    pieces = -(-len(text) // length)
    cut = length * (pieces - max(round(pieces * test_fraction), 1))
    if cut <= 0:
        raise ValueError(f"{files[0]} has {len(text)} characters, not two pieces of data.length={length}")
    return text[:cut], text[cut:]


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error})") from error
    if len(text) < 2:
        raise ValueError(f"{file} has {len(text)} characters: give a text")
    return text


def _pieces(text: str, alphabet: str, length: int) -> Tokens:
    """Pieces of ``length`` characters; a single one at the end, after which nothing follows, is left out."""
    if len(text) % length == 1:
        text = text[:-1]
    places = {character: place for place, character in enumerate(alphabet, 1)}
    ids = np.array([places.get(character, UNKNOWN) for character in text], np.int32)
    offsets = np.append(np.arange(0, len(ids), length, dtype=np.int64), len(ids))
    return Tokens(ids, offsets, UNKNOWN)


def _stretches(pieces: int, groups: int) -> NDArray[np.int64]:
    if not 1 <= groups <= pieces:
        raise ValueError(f"data.groups={groups}: the training part has {pieces} pieces, give 1 to as many")
    return np.arange(pieces, dtype=np.int64) * groups // pieces
