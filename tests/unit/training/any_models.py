"""Small models of every kind that is no plain stack of layers, each with the data it takes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 20


class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class MaskedConv(nn.Conv2d):
    """As in PixelCNN."""

    def forward(self, x):
        mask = torch.ones_like(self.weight)
        mask[:, :, 2] = 0
        return self._conv_forward(x, self.weight * mask, self.bias)


class CosineLinear(nn.Linear):
    def forward(self, x):
        return 8 * F.linear(F.normalize(x), F.normalize(self.weight))


class ScaledLinear(nn.Linear):
    """Equalised learning rate, as in StyleGAN."""

    def forward(self, x):
        return F.linear(x, self.weight * 0.3, self.bias)


class Series(nn.Module):
    """A module over (rows, 5, 6), and a linear layer on the mean over time of what it gives."""

    def __init__(self, inner, call=lambda m, x: m(x), width=8):
        super().__init__()
        self.inner, self.call, self.out = inner, call, nn.Linear(width, 3)

    def forward(self, x):
        return self.out(self.call(self.inner, x).tanh().mean(1))


class Images(nn.Module):
    def __init__(self, first, last=None):
        super().__init__()
        self.first, self.last = first, last or nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.first(x).tanh().flatten(2).mean(2))


class Embedded(nn.Module):
    """Ids (rows, 4) below 9."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding, self.out = embedding, nn.Linear(6, 3)

    def forward(self, ids):
        return self.out(self.embedding(ids).tanh().mean(1))


class ScaledEmbedding(nn.Embedding):
    """Gemma's."""

    def forward(self, ids):
        return super().forward(ids) * 2.5


class OwnPositions(nn.Embedding):
    """OPT's: the positions are counted from 2 on."""

    def forward(self, ids):
        return super().forward((ids > 0).long().cumsum(1) + 2)


class BatchStandardised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(30, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.out(self.first((x - x.mean(0)) / (x.std(0, unbiased=False) + 0.3)).tanh())


class RunningSum(BatchStandardised):
    def forward(self, x):
        return self.out(self.first(x.flatten(1).cumsum(0)).tanh())


class Memory(nn.Module):
    """An LSTM whose state goes on into another layer: its batch is the second dimension."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True), nn.Linear(16, 3)

    def forward(self, x):
        _, (h, _) = self.lstm(x)
        return self.out(h.transpose(0, 1).flatten(1))


class Decoder(nn.Module):
    """Attention over a padded memory, by keyword; a module that gives a tuple with None in it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, kdim=5, vdim=6, batch_first=True)
        self.key, self.out = nn.Linear(6, 5), nn.Linear(6, 3)

    def forward(self, x):
        hidden = x[..., 0] > 1.5
        y, nothing = self.attention(query=x, key=self.key(x), value=x, key_padding_mask=hidden, need_weights=False)
        assert nothing is None
        return self.out(y.mean(1))


class RelativePositions(nn.Module):
    """DeBERTa's: a layer projects the states of each row, and the distances that all rows share."""

    def __init__(self):
        super().__init__()
        self.distances, self.attention, self.out = nn.Embedding(9, 6), _Disentangled(), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.attention(x, self.distances.weight).mean(1))


class _Disentangled(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x, distances):
        q, k = self.query(x), self.key(x)
        far = self.key(distances.unsqueeze(0)).repeat(len(x), 1, 1)
        at = torch.arange(x.shape[1])
        at = (at[:, None] - at + 4).expand(len(x), -1, -1)
        scores = q @ k.mT + (q @ far.mT).gather(2, at)
        return scores.softmax(-1) @ x


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6) / 2)

    def forward(self, x):
        return F.linear(x, self.weight).softmax(-1).topk(2)


class Experts(nn.Module):
    """Fused, and only those that a token goes to are computed."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(4, 5, 6) / 2), nn.Parameter(torch.randn(4, 6, 5) / 2)

    def forward(self, x, chosen, share):
        out = torch.zeros_like(x)
        for e in chosen.unique().tolist():
            token, place = torch.where(chosen == e)
            y = F.linear(F.linear(x[token], self.up[e]).tanh(), self.down[e])
            out = out.index_add(0, token, y * share[token, place, None])
        return out


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.experts, self.out = Router(), Experts(), nn.Linear(6, 3)

    def forward(self, x):
        flat = x.flatten(0, 1)
        share, chosen = self.router(flat)
        return self.out(self.experts(flat, chosen, share).unflatten(0, x.shape[:2]).mean(1))


class ListedExperts(nn.Module):
    """Each expert is a module that sees the tokens that go to it."""

    def __init__(self):
        super().__init__()
        self.router, self.experts, self.out = (
            Router(),
            nn.ModuleList(nn.Linear(6, 6) for _ in range(4)),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        flat = x.flatten(0, 1)
        share, chosen = self.router(flat)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, place = torch.where(chosen == e)
            out = out.index_add(0, token, expert(flat[token]) * share[token, place, None])
        return self.out(out.unflatten(0, x.shape[:2]).mean(1))


def hooked():
    layer = nn.Linear(6, 8)
    layer.register_forward_hook(lambda module, args, out: out.sin())
    return layer


def prehooked():
    layer = nn.Linear(6, 8)
    layer.register_forward_pre_hook(lambda module, args: (args[0].sin(),))
    return layer


def replaced():
    layer = nn.Linear(6, 8)
    layer.forward = lambda x: nn.Linear.forward(layer, x).sin()
    return layer


def encoder(dropout=0.0, first=True):
    layer = nn.TransformerEncoderLayer(6, 2, 7, dropout, batch_first=first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def time_first(m, x):
    out = m(x.transpose(0, 1))
    return (out[0] if isinstance(out, tuple) else out).transpose(0, 1)


def self_attention(m, x):
    return m(x, x, x)[0]


def first(m, x):
    return m(x)[0]


IMAGES = {
    "standardised convolution": lambda: Images(StandardisedConv(3, 4, 3)),
    "masked convolution": lambda: Images(MaskedConv(3, 4, 3)),
    "cosine head": lambda: Images(nn.Conv2d(3, 4, 3), CosineLinear(4, 3, bias=False)),
    "scaled head": lambda: Images(nn.Conv2d(3, 4, 3), ScaledLinear(4, 3)),
    "transposed convolution": lambda: Images(nn.ConvTranspose2d(3, 4, 3, 2, 1, 1, groups=1)),
    "grouped transposed convolution": lambda: Images(
        nn.Sequential(nn.Conv2d(3, 4, 2), nn.ConvTranspose2d(4, 4, 2, groups=2))
    ),
    "frozen statistics": lambda: Images(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval(),
}
SERIES = {
    "GRU": lambda: Series(nn.GRU(6, 8, batch_first=True), first),
    "LSTM": lambda: Series(nn.LSTM(6, 8, 2), lambda m, x: m(x.transpose(0, 1))[0].transpose(0, 1)),
    "LSTM with a projection": lambda: Series(nn.LSTM(6, 9, proj_size=8, batch_first=True), first),
    "RNN": lambda: Series(nn.RNN(6, 4, bidirectional=True, batch_first=True), first),
    "state of an LSTM": Memory,
    "attention": lambda: Series(nn.MultiheadAttention(6, 2, batch_first=True), self_attention, 6),
    "attention, time first": lambda: Series(
        nn.MultiheadAttention(6, 2), lambda m, x: time_first(lambda y: m(y, y, y, need_weights=False), x), 6
    ),
    "attention by keyword": Decoder,
    "encoder": lambda: Series(encoder(), width=6),
    "encoder, time first": lambda: Series(encoder(first=False), time_first, 6),
    "Conv1d": lambda: Series(nn.Conv1d(5, 4, 3, padding=1), width=6),
    "Conv1d in groups": lambda: Series(nn.Conv1d(5, 10, 2, groups=5, padding="same", dilation=2), width=6),
    "Conv3d": lambda: Series(
        nn.Conv3d(1, 2, (3, 1, 2)), lambda m, x: m(x[:, None, :, :, None].expand(-1, -1, -1, -1, 3)).flatten(2), 36
    ),
    "Bilinear": lambda: Series(nn.Bilinear(6, 6, 8), lambda m, x: m(x, x.sin())),
    "user's hook": lambda: Series(hooked()),
    "user's hook before": lambda: Series(prehooked()),
    "user's forward": lambda: Series(replaced()),
    "input by keyword": lambda: Series(nn.Linear(6, 8), lambda m, x: m(input=x)),
    "time before rows": lambda: Series(nn.Linear(6, 8), time_first),
    "weight of a layer that is not called": lambda: Series(nn.Linear(6, 8), lambda m, x: F.linear(x, m.weight).sin()),
    "relative positions": RelativePositions,
    "mixture": Mixture,
    "mixture of modules": ListedExperts,
}
TEXTS = {
    "scaled embedding": lambda: Embedded(ScaledEmbedding(9, 6)),
    "positions of its own": lambda: Embedded(OwnPositions(9, 6)),
    "embedding with frequencies": lambda: Embedded(nn.Embedding(9, 6, scale_grad_by_freq=True)),
}
# Here the rows of a batch really mix: clients are trained one at a time.
MIXING = {
    "batch taken for time": lambda: Series(nn.LSTM(6, 8), first),
    "batch taken for time after a layer": lambda: Series(nn.Sequential(nn.Linear(6, 6), nn.GRU(6, 8)), first),
    "standardised over the batch": BatchStandardised,
    "sum over the batch": RunningSum,
    "positions without a first dimension": lambda: Series(nn.Embedding(5, 6), lambda m, x: x + m(torch.arange(5)), 6),
}
COMPUTED = {
    "weight_norm": lambda: Series(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))),
    "orthogonal": lambda: Series(nn.utils.parametrizations.orthogonal(nn.Linear(6, 8))),
    "spectral_norm": lambda: Series(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))),
    "weight_norm of a GRU": lambda: Series(
        nn.utils.parametrizations.weight_norm(nn.GRU(6, 8, batch_first=True), "weight_hh_l0"), first
    ),
}


def inputs(name: str) -> Tensor:
    """(ROWS, ...) of what a model takes."""
    generator = torch.Generator().manual_seed(1)
    if name in TEXTS:
        return torch.randint(1, 9, (ROWS, 4), generator=generator)
    shape = (3, 6, 6) if name in IMAGES else (5, 6)
    return torch.randn(ROWS, *shape, generator=generator, dtype=torch.float64)


def targets() -> Tensor:
    """(ROWS,) classes of three."""
    return torch.randint(3, (ROWS,), generator=torch.Generator().manual_seed(2))


def make(name: str) -> nn.Module:
    """A model in float64, the same in every test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return {**IMAGES, **SERIES, **TEXTS, **MIXING, **COMPUTED}[name]().double()
