"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class Convolutional(nn.Module):
    """3 x 3 convolutions ``convolutions.0``, ... each with ReLU and 2 x 2 max-pooling, then the linear
    ``head``.

    Args:
        channels: of the input image, then of every convolution.
        size: height and width of the image.
        outputs: of the head.
    """

    def __init__(self, channels: Sequence[int], size: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in pairwise(channels))
        side = size >> len(self.convolutions)  # every pooling halves it, rounding down
        self.head = nn.Linear(channels[-1] * side * side, outputs)
        self.image = (channels[0], size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (rows, outputs) of images x (rows, channels, size, size).

        Raises:
            ValueError: images of another shape.
        """
        if x.shape[1:] != self.image:
            raise ValueError(
                f"an example has shape {tuple(x.shape[1:])} but the model takes {self.image}: set "
                "model.channels and model.size"
            )
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


def cnn(channels: int = 1, size: int = 28, filters: Sequence[int] = (16, 32), outputs: int = 10) -> nn.Module:
    """A convolutional network for images of ``channels`` x ``size`` x ``size``.

    Args:
        filters: number of filters of each convolution.

    Raises:
        ValueError: the image is too small to be halved once for each convolution.
    """
    if size >> len(filters) < 1:
        raise ValueError(f"model.size={size} cannot be halved {len(filters)} times: use fewer model.filters")
    return Convolutional([channels, *filters], size, outputs)
