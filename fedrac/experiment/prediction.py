"""A finished run's model on inputs of a user's own: reading them, and saying what the outputs mean."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedrac.data.batch import batches, order_of
from fedrac.data.columns import read
from fedrac.data.examples import Examples
from fedrac.data.glue import TASKS
from fedrac.data.standard import Scale
from fedrac.data.tokenizer import Tokenizer
from fedrac.data.tokens import Tokens
from fedrac.experiment.finished_run import FinishedRun
from fedrac.flower.host import pick_device
from fedrac.models.hf import HuggingFace
from fedrac.training import evaluation
from fedrac.training.bfloat16 import in_float32

ROWS = 64  # of one batch


class Predictor:
    """Answers, one for each example, in order.

    Args:
        run: whose model answers.
        tokens: how many a language model writes on.
    """

    def __init__(self, run: FinishedRun, tokens: int = 40) -> None:
        self.run, self.tokens = run, tokens
        self.device = pick_device("auto")
        self.model: Any = run.model().to(self.device)
        self.dtype = next(self.model.parameters()).dtype

    def of_file(self, file: Path) -> Iterator[dict[str, Any]]:
        """Answers to the rows of a file: ``.npy`` (N, ...) as the model takes them, a table, or ``.txt``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it does not hold what the model takes.
        """
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}")
        if file.suffix == ".npy":
            return self._answers(_array(file, self.run.inputs))
        data = self.run.experiment.data
        if "tokenizer" not in data:
            return self._answers(_features(file, data))
        if file.suffix == ".txt":
            return self.of_lines(file.read_text().splitlines(), ROWS)
        columns = read([file])
        return self._of_texts([columns.texts(name) for name in _text_columns(data)])

    def of_lines(self, lines: Iterable[str], at_once: int) -> Iterator[dict[str, Any]]:
        """Answers to texts, one a line; the two texts of a pair have a tab between them.

        Raises:
            ValueError: the model takes no texts, or a line is empty or no pair.
        """
        data = self.run.experiment.data
        if "tokenizer" not in data:
            raise ValueError("this model takes no texts: give a .npy file of inputs (N, ...), as it takes them")
        width = len(_text_columns(data))
        numbered = enumerate(lines, 1)
        while block := list(islice(numbered, at_once)):
            rows = [_cells(number, line, width) for number, line in block]
            yield from self._of_texts([list(column) for column in zip(*rows, strict=True)])

    def _of_texts(self, texts: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
        data = self.run.experiment.data
        tokenizer = Tokenizer(data["tokenizer"], data["max_length"], data["too_long"])
        if self.run.task.dimensions == 0:  # what follows is a text, too
            return (self._continued(tokenizer, text) for text in texts[0])
        first, *second = texts
        return self._answers(tokenizer.encode(first, second[0] if second else None))

    @torch.no_grad()
    def _answers(self, inputs: NDArray[Any] | Tokens) -> Iterator[dict[str, Any]]:
        texts = isinstance(inputs, Tokens)
        examples = Examples(inputs, np.zeros(len(inputs), np.int64))  # of unknown targets
        found = []
        for rows, _ in batches(examples, ROWS, self.device, self.dtype):
            lengths = rows[:, 1].sum(1).tolist() if texts else [None] * len(rows)
            for output, length in zip(_outputs(self.model, rows), lengths, strict=True):
                of_tokens = output[:length] if output.ndim > 1 else output  # without those of the padding
                found.append(dict(self.run.task.answer(of_tokens, self.run.labels)))
        return (found[place] for place in np.argsort(order_of(examples)))

    @torch.no_grad()
    def _continued(self, tokenizer: Tokenizer, text: str) -> dict[str, Any]:
        """The likeliest next tokens, one after another."""
        start = torch.from_numpy(tokenizer.opening(text).padded()).to(self.device)
        with in_float32(self.model):
            written = self._written(start)[0, start.shape[2] :]
        return {"text": text, "continuation": tokenizer.decode(written.tolist())}

    def _written(self, text: Tensor) -> Tensor:
        """Token ids (1, length + tokens) of a text (1, 2, length) and what follows."""
        ids, mask = text.unbind(1)
        if isinstance(self.model, HuggingFace):
            options = {"max_new_tokens": self.tokens, "do_sample": False}
            found: Tensor = self.model.model.generate(input_ids=ids, attention_mask=mask, **options)
            return found
        for _ in range(self.tokens):
            following = evaluation.call(self.model, torch.stack([ids, torch.ones_like(ids)], 1))[:, -1:].argmax(2)
            ids = torch.cat([ids, following], 1)
        return ids


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    try:
        with in_float32(model):
            outputs = evaluation.call(model, inputs).double().cpu()
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"the model does not take inputs of shape {tuple(inputs.shape[1:])}: {error}") from error
    return outputs


def _cells(number: int, line: str, width: int) -> list[str]:
    cells = [cell.strip() for cell in line.split("\t")] if width > 1 else [line.strip()]
    if len(cells) != width or not all(cells):
        wanted = "a text" if width == 1 else "two texts with a tab between them"
        raise ValueError(f"line {number} is {line.strip()!r}: give {wanted} on every line")
    return cells


def _text_columns(data: Mapping[str, Any]) -> Sequence[str]:
    columns = data["text"] if "text" in data else TASKS[data["name"]].text
    return [columns] if isinstance(columns, str) else list(columns)


def _array(file: Path, inputs: str) -> NDArray[Any]:
    """The inputs in a file, as those of the run were: ``float32``, ``int64`` or ``texts``."""
    try:
        values = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({error}): write it with numpy.save") from error
    if values.dtype.kind not in "biuf" or values.ndim < 2:
        raise ValueError(f"{file} holds {values.dtype} of shape {values.shape}: make it (N, ...) numbers")
    if inputs == "int64" and values.dtype.kind not in "iu":
        raise ValueError(f"{file} holds {values.dtype}, but the run trained on integers: write it as int64")
    whole = values.dtype.kind in "iu" and inputs != "float32"
    return np.ascontiguousarray(values, dtype=np.int64 if whole else np.float32)


def _features(file: Path, data: Mapping[str, Any]) -> Any:
    """The feature columns of a table, for a run on tables."""
    if "standardize" not in data:
        raise ValueError(f"{file}: give a .npy file of inputs (N, ...), as the model takes them")
    if data["standardize"] is True:
        raise ValueError(
            "this run scaled its columns by its training rows (data.standardize=true), which are not part of its "
            "result: give a .npy file of scaled inputs, or train with data.standardize=false"
        )
    columns = read([file])
    targets = [data["target"]] if isinstance(data["target"], str) else data["target"]
    names = data["features"] or [name for name in columns.frame.columns if name not in (*targets, data["group"])]
    values = columns.numbers(list(names))
    scale = data["standardize"]
    return (Scale.of(scale, values.shape[1]).apply(values) if scale else values).astype(np.float32)
