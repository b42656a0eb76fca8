"""Texts into token ids, by the tokenizer of a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from fedrac.data.tokens import Tokens, join
from fedrac.loading.told import told

log = logging.getLogger(__name__)

TooLong = Literal["truncate", "refuse"]
_NO_LIMIT = 10**6  # transformers writes 10**30 where a tokenizer knows no limit


@dataclass(frozen=True)
class Tokenizer:
    """How texts are read.

    Attributes:
        name: a checkpoint of the hub or a folder that has a tokenizer; or ``bytes``, the 256 bytes of UTF-8 and three
            special tokens, which needs no files.
        max_length: the most tokens of an example, special ones included; None: as many as the checkpoint reads.
        too_long: cut longer texts, with a warning, or refuse them.

    Raises:
        ValueError: a value that is not known or not positive.
    """

    name: str | None
    max_length: int | None = None
    too_long: TooLong = "truncate"

    def __post_init__(self) -> None:
        if not self.name:
            raise told(ValueError(f"data.tokenizer={self.name}: set it to a checkpoint's name or folder, or to bytes"))
        if self.max_length is not None and self.max_length < 2:
            raise told(ValueError(f"data.max_length={self.max_length}: a text needs at least 2 tokens; 128 is usual"))
        if self.too_long not in get_args(TooLong):
            known = " or ".join(get_args(TooLong))
            raise told(ValueError(f"data.too_long={self.too_long!r} is unknown: choose {known}"))

    @property
    def files(self) -> list[Path]:
        """What is read, if the name is that of a folder; small files only, not the weights."""
        folder = Path(str(self.name)).expanduser()
        return sorted(file for kind in ("json", "txt", "model") for file in folder.glob(f"*.{kind}"))

    def identity(self) -> dict[str, Any]:
        """What token ids follow from besides the texts and `files`."""
        versions = [_version(name) for name in ("transformers", "tokenizers")]
        return {"tokenizer": self.name, "max_length": self.max_length, "versions": versions}

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from transformers import AutoTokenizer, ByT5Tokenizer
        except ImportError as error:
            raise told(ValueError("texts need the package transformers: pip install 'fedrac[hf]'")) from error
        if self.name == "bytes":
            return ByT5Tokenizer(extra_ids=0)
        folder = Path(str(self.name)).expanduser()
        try:
            if folder.is_dir():
                return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            return AutoTokenizer.from_pretrained(self.name)
        except (OSError, ValueError) as error:
            wrong = f"data.tokenizer={self.name}: no tokenizer could be loaded"
            mend = "give a folder that save_pretrained wrote, or the name of a checkpoint where the hub can be reached"
            raise told(ValueError(f"{wrong} ({_first_line(error)}): {mend}"), f"{wrong}: {mend}") from error

    @property
    def size(self) -> int:
        """Number of tokens that it knows."""
        return len(self._tokenizer)

    @property
    def pad(self) -> int:
        """The id behind a text that is shorter than its batch; the attention mask says that it means nothing."""
        tokenizer = self._tokenizer
        return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)

    @cached_property
    def limit(self) -> int:
        """The most tokens of an example.

        Raises:
            ValueError: the checkpoint reads fewer than ``max_length``, or neither says how many.
        """
        most: int | None = self._tokenizer.model_max_length
        most = most if most is not None and most < _NO_LIMIT else None
        if self.max_length is None and most is None:
            wrong = f"data.max_length=null, but the tokenizer {self.name} knows no limit: set it, e.g. to 128"
            raise told(ValueError(wrong))
        if self.max_length is not None and most is not None and self.max_length > most:
            wrong = f"data.max_length={self.max_length}, but the model of {self.name} reads {most}: lower it"
            raise told(ValueError(wrong))
        return self.max_length or most or 0

    def encode(self, texts: Sequence[str], second: Sequence[str] | None = None, end: bool = False) -> Tokens:
        """Token ids of texts, or of pairs of texts, with the checkpoint's special tokens.

        Args:
            texts: N texts.
            second: the second text of each pair.
            end: close every text with the end-of-text token (a language model then learns to stop).

        Raises:
            ValueError: with ``too_long="refuse"``, if a text is longer than `limit`.
        """
        limit = self.limit
        rows, types = self._rows(texts, second, end)
        if long := [i for i, row in enumerate(rows) if len(row) > limit]:
            self._report(long, rows, limit)
            pairs = None if second is None else [second[i] for i in long]
            cut, cut_types = self._rows([texts[i] for i in long], pairs, end, limit)
            for place, i in enumerate(long):
                rows[i] = cut[place]
                if types is not None and cut_types is not None:
                    types[i] = cut_types[place]
        return join(rows, self.pad, types)

    def opening(self, text: str) -> Tokens:
        """A text that is to be continued: without the end-of-text token that some tokenizers put behind every text."""
        (row,), _ = self._rows([text], None, False)
        closed = len(row) > 1 and row[-1] == self._tokenizer.eos_token_id
        return join([row[:-1] if closed else row], self.pad)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _rows(
        self, texts: Sequence[str], second: Sequence[str] | None, end: bool, limit: int | None = None
    ) -> tuple[list[list[int]], list[list[int]] | None]:
        if not texts:
            return [], None
        tokenizer = self._tokenizer
        final = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
        cutting = {} if limit is None else {"truncation": True, "max_length": limit}
        found = tokenizer(list(texts), None if second is None else list(second), verbose=False, **cutting)
        rows: list[list[int]] = found["input_ids"]
        room = None if limit is None else limit - 1
        if final:
            rows = [row if row[-1:] == final else [*row[:room], *final] for row in rows]
        # The types of single texts are all 0, as models take them to be where they are not given.
        return rows, found.get("token_type_ids") if second is not None and not end else None

    def _report(self, long: Sequence[int], rows: Sequence[Sequence[int]], limit: int) -> None:
        longest = max(long, key=lambda i: len(rows[i]))
        what = (
            f"{len(long)} of {len(rows)} texts are longer than data.max_length={limit} tokens (the longest, number "
            f"{longest + 1}, has {len(rows[longest])})"
        )
        if self.too_long == "refuse":
            mend = "raise data.max_length, shorten them, or set data.too_long=truncate"
            raise told(ValueError(f"{what}: {mend}"), f"texts are longer than data.max_length={limit} tokens: {mend}")
        log.warning("%s and are cut; data.too_long=refuse would stop here", what)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
