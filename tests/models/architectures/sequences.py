"""Recurrent networks, attention, and other networks over sequences and sets, of torch alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from architectures.architecture import CLASSES, WORDS, Architecture, ids, series, texts
from fedrac.models.recurrent import lstm


class Last(nn.Module):
    """A recurrent layer, and a linear one on its last output."""

    def __init__(self, layer: nn.Module, width: int = 6) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Cell(nn.Module):
    """A cell, step by step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True, **options), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Pooled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x).mean(1))


class Decoding(nn.Module):
    """The second half of a series attends to the first."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x[:, :3], x[:, 3:]).mean(1))


class TimeFirst(nn.Module):
    """An LSTM without batch_first, as it is meant: the batch goes to the second dimension and back."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.transpose(0, 1))[0][-1])


class AlongTheBatch(TimeFirst):
    """The same, but the batch is taken for time."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class OverTheBatch(nn.Module):
    """What it sees of a row depends on the rows beside it."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mix, self.inner, self.head = mix, nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.mix(x.mean(1))).tanh())


class Causal(nn.Module):
    """Dilated convolutions that look back only (WaveNet, TCN)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv1d(6, 12, 2, dilation=2**i) for i in range(2))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for i, gate in enumerate(self.gates):
            value, opened = gate(nn.functional.pad(x, (2**i, 0))).chunk(2, 1)
            x = x + value.tanh() * opened.sigmoid()
        return self.head(x[..., -1])


class TextConv(nn.Module):
    """Convolutions of several widths over words, and their maxima (Kim)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 6)
        self.convolutions = nn.ModuleList(nn.Conv1d(6, 4, width) for width in (2, 3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = self.embedding(x).transpose(1, 2)
        return self.head(torch.cat([c(words).relu().amax(2) for c in self.convolutions], 1))


class Graph(nn.Module):
    """Two graph convolutions over every example's own graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        edges = (x @ x.mT).softmax(2)
        return self.head((edges @ self.second((edges @ self.first(x)).relu())).mean(1))


class DeepSet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.all(self.each(x).sum(1))


class WideAndDeep(nn.Module):
    """Sums of embeddings, their pairwise products, and a network on them (a factorisation machine)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Embedding(WORDS, CLASSES), nn.Embedding(WORDS, 6)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        each = self.deep(x)
        return self.wide(x).sum(1) + self.head((each.sum(1).square() - each.square().sum(1)) / 2)


class Experts(nn.Module):
    """A mixture of experts with a soft gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(6, 2), nn.ModuleList(nn.Linear(6, CLASSES) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        shares, x = self.gate(x.mean(1)).softmax(1), x.mean(1)
        return sum(shares[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


def of(name: str, make: Callable[[], nn.Module], inputs: Callable[[], Tensor] = series, **more: Any) -> Architecture:
    return Architecture(name, "sequences and sets", make, inputs, **more)


def _encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True, **options)
    return Pooled(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


SEQUENCES = (
    of("RNN", lambda: Last(nn.RNN(6, 6, batch_first=True))),
    of("LSTM", lambda: Last(nn.LSTM(6, 6, batch_first=True))),
    of("LSTM, two layers, both directions", lambda: Last(nn.LSTM(6, 3, 2, batch_first=True, bidirectional=True))),
    of("LSTM with a projection", lambda: Last(nn.LSTM(6, 8, batch_first=True, proj_size=6))),
    of("LSTM, time first", TimeFirst),
    of("LSTM, the batch taken for time", AlongTheBatch),
    of("inputs standardised over the batch", lambda: OverTheBatch(lambda x: (x - x.mean(0)) / (x.std(0) + 0.1))),
    of("a running sum over the batch", lambda: OverTheBatch(lambda x: x.cumsum(0))),
    of("LSTM, the next character (model=lstm)", lambda: lstm(WORDS, 4, 6, 2), texts, task="causal_lm"),
    of("GRU", lambda: Last(nn.GRU(6, 6, batch_first=True))),
    of("LSTMCell", lambda: Cell(nn.LSTMCell(6, 4))),
    of("GRUCell", lambda: Cell(nn.GRUCell(6, 4))),
    of("MultiheadAttention", Attention),
    of("MultiheadAttention with add_bias_kv", lambda: Attention(add_bias_kv=True)),
    of("TransformerEncoder", _encoder),
    of("TransformerEncoder, norm first", lambda: _encoder(norm_first=True)),
    of("TransformerDecoder", lambda: Decoding(nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 2, 8, 0.0,
                                                                                              batch_first=True), 1))),
    of("Transformer", lambda: Decoding(nn.Transformer(6, 2, 1, 1, 8, 0.0, batch_first=True))),
    of("WaveNet / TCN", Causal),
    of("TextCNN", TextConv, ids),
    of("graph convolution", Graph),
    of("DeepSets", DeepSet),
    of("factorisation machine", WideAndDeep, ids),
    of("mixture of experts, soft gate", Experts),
)  # fmt: skip
