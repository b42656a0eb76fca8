"""Fully connected networks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class Dense(nn.Module):
    """Linear layers ``layers.0``, ``layers.1``, ... with ReLU and dropout in between.

    Args:
        widths: of the input, of every hidden layer, of the output.
        dropout: probability with which a hidden unit is dropped in training.
        bias: whether the layers have one.
    """

    def __init__(self, widths: Sequence[int], dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        self.inputs = widths[0]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (rows, outputs) of examples x (rows, ...), which are flattened.

        Raises:
            ValueError: an example has another number of entries than the first layer takes.
        """
        x = x.flatten(1)
        if x.shape[1] != self.inputs:
            raise ValueError(
                f"an example has {x.shape[1]} entries but the model takes {self.inputs}: set model.inputs={x.shape[1]}"
            )
        *hidden, last = self.layers
        for layer in hidden:
            x = self.dropout(F.relu(layer(x)))
        return last(x)  # type: ignore[no-any-return]


def linear(inputs: int, outputs: int, bias: bool = True, zero: bool = False) -> nn.Module:
    """One linear layer, which starts at random or at ``zero``: linear regression, or with cross-entropy logistic."""
    model = Dense([inputs, outputs], bias=bias)
    for parameter in model.parameters() if zero else ():
        nn.init.zeros_(parameter)
    return model


def mlp(inputs: int = 784, hidden: Sequence[int] = (64, 64), outputs: int = 5, dropout: float = 0.0) -> nn.Module:
    """A multi-layer perceptron with hidden layers of the widths ``hidden``.

    Raises:
        ValueError: a width below 1, or a dropout that is no probability.
    """
    for width in (inputs, *hidden, outputs):
        if width < 1:
            raise ValueError(f"a layer of width {width}: model.inputs, model.hidden and model.outputs must be positive")
    return Dense([inputs, *hidden, outputs], dropout)
