"""Recurrent networks over tokens."""

from torch import Tensor, nn


class NextToken(nn.Module):
    """The next token of a text: an ``embedding``, an ``lstm``, and the linear ``head``.

    With two layers of 256 units it is the network that McMahan et al. (arXiv 1602.05629) and LEAF (arXiv 1812.01097)
    train on Shakespeare's lines.

    Args:
        tokens: how many there are.
        embedding: numbers for each of them.
        hidden: units of every layer of the LSTM.
        layers: of the LSTM.
    """

    def __init__(self, tokens: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (rows, length, tokens) of texts (rows, 2 or 3, length) int64: token ids, then their mask.

        The mask is not needed: padding comes last, and nothing looks ahead.
        """
        return self.head(self.lstm(self.embedding(x[:, 0]))[0])  # type: ignore[no-any-return]


def lstm(tokens: int = 128, embedding: int = 8, hidden: int = 256, layers: int = 2) -> nn.Module:
    """A `NextToken`.

    Raises:
        ValueError: a number below 1.
    """
    for name, value in {"tokens": tokens, "embedding": embedding, "hidden": hidden, "layers": layers}.items():
        if value < 1:
            raise ValueError(f"model.{name}={value} must be at least 1")
    return NextToken(tokens, embedding, hidden, layers)
