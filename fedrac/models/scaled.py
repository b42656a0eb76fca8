"""A linear map whose outputs are scaled, for weighted least squares."""

import torch
from torch import Tensor, nn


class ScaledLinear(nn.Module):
    """``s * (W x)`` for examples ``(x, s)``: every example weighs every output as it likes; W starts at zero.

    Args:
        inputs: length of x.
        outputs: length of s and of the result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, example: Tensor) -> Tensor:
        """Outputs (rows, outputs) of examples (rows, inputs + outputs).

        Raises:
            ValueError: examples of another length.
        """
        inputs, outputs = self.layer.in_features, self.layer.out_features
        if example.shape[1:] != (inputs + outputs,):
            raise ValueError(
                f"an example has shape {tuple(example.shape[1:])} but the model takes {inputs} inputs and {outputs} "
                "scales: set model.inputs and model.outputs"
            )
        x, scale = torch.split(example, [inputs, outputs], dim=1)
        return self.layer(x) * scale  # type: ignore[no-any-return]


def scaled_linear(inputs: int, outputs: int) -> nn.Module:
    """A `ScaledLinear`."""
    return ScaledLinear(inputs, outputs)
