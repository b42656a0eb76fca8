"""A transformer encoder of the shape of MiniLM-L6, with random weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each followed by a sum with its input and a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (rows, tokens, width) to the same shape; ``mask`` (rows, 1, 1, tokens) bool says which are real."""
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        x = self.norm1(x + self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Embeddings, blocks, and a head on the mean over the tokens."""

    def __init__(self, vocabulary: int, tokens: int, width: int, heads: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.head = nn.Linear(width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (rows, outputs) of token ids (rows, tokens), in any dtype, or of (rows, 2, tokens) with their mask."""
        ids, real = ids.unbind(1) if ids.ndim == 3 else (ids, None)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.norm(self.words(ids.long()) + self.positions(places))
        for block in self.blocks:
            x = block(x, None if real is None else real[:, None, None].bool())
        if real is None:
            return self.head(x.mean(1))
        return self.head((x * real[..., None]).sum(1) / real.sum(1, keepdim=True))
