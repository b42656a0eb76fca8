"""The networks for images that everyone knows, small, written out in torch alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from architectures.architecture import CLASSES, Architecture, images


def unit(a: int, b: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm (its statistics frozen), ReLU."""
    layer = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(b), nn.ReLU())


class Residual(nn.Module):
    """``x + inner(x)``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Joined(nn.Module):
    """What several branches give, one beside the other (Inception, DenseNet, Fire)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Shuffled(nn.Module):
    """Half of the channels through a depthwise block, then all of them shuffled (ShuffleNetV2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.inner = nn.Sequential(unit(half, half, 1), unit(half, half, groups=half), unit(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        return torch.stack([kept, self.inner(changed)], 2).flatten(1, 2)


class ChannelsLast(nn.Module):
    """Something that takes the channels last."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(1, -1)).movedim(-1, 1)


class Mixer(nn.Module):
    """A block of MLP-Mixer over (rows, patches, channels)."""

    def __init__(self, patches: int, channels: int) -> None:
        super().__init__()
        self.over_patches, self.over_channels = nn.Linear(patches, patches), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(x.mT).mT
        return x + self.over_channels(x).tanh()


class Patches(nn.Module):
    """Patches of 4 x 4 pixels, (rows, patches, channels), with a class token and positions where asked."""

    def __init__(self, channels: int, token: bool) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, channels, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, channels)) if token else None
        self.positions = nn.Parameter(torch.randn(1, 4 + token, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).mT
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return x + self.positions


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches(8, True)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(x))[:, 0])


class RootToken(Vit):
    """Its class token is a parameter of the whole model, beside a module with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = Patches(8, False), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x)
        return self.head(self.encoder(torch.cat([self.token.expand(len(x), -1, -1), patches], 1))[:, 0])


class UNet(nn.Module):
    """A class for each pixel, the pixels one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = unit(3, 4), nn.Sequential(nn.MaxPool2d(2), unit(4, 8))
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        return self.head(torch.cat([fine, self.up(self.inner(fine))], 1)).flatten(2).mT


def classifier(*body: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def of(name: str, make: Callable[[], nn.Module], **more: Any) -> Architecture:
    return Architecture(name, "images", make, images, **more)


def _convnext() -> nn.Module:
    inner = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
    block = Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), ChannelsLast(inner)))
    return classifier(nn.Conv2d(3, 6, 2, 2), block, width=6)


def _inverted(excited: bool) -> nn.Module:
    inner = [unit(6, 12, 1), unit(12, 12, groups=12), *([Excited(12)] if excited else []), nn.Conv2d(12, 6, 1)]
    return classifier(unit(3, 6, stride=2), Residual(nn.Sequential(*inner, nn.BatchNorm2d(6))), width=6)


IMAGES = (
    of("LeNet", lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 2), nn.Tanh(),
                                      nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, CLASSES))),
    of("VGG", lambda: classifier(unit(3, 4), unit(4, 4), nn.MaxPool2d(2), unit(4, 8), width=8)),
    of("ResNet", lambda: classifier(unit(3, 6), Residual(nn.Sequential(unit(6, 6), unit(6, 6))), width=6)),
    of("DenseNet", lambda: classifier(unit(3, 4), Joined(nn.Identity(), unit(4, 3)), Joined(nn.Identity(), unit(7, 3)),
                                      width=10)),
    of("Inception", lambda: classifier(Joined(unit(3, 3, 1), unit(3, 3), unit(3, 3, 5)), width=9)),
    of("SqueezeNet", lambda: classifier(nn.Conv2d(3, 4, 1), nn.ReLU(), Joined(unit(4, 3, 1), unit(4, 3)), width=6)),
    of("MobileNetV2", lambda: _inverted(False)),
    of("EfficientNet", lambda: _inverted(True)),
    of("ShuffleNetV2", lambda: classifier(unit(3, 8), Shuffled(8), width=8)),
    of("ConvNeXt", _convnext),
    of("MLP-Mixer", lambda: nn.Sequential(Patches(6, False), Mixer(4, 6), nn.Flatten(), nn.Linear(24, CLASSES))),
    of("ViT", Vit),
    of("ViT, the class token a parameter of the whole model", RootToken),
    of("U-Net, a class for each pixel", UNet, task="tagging"),
)  # fmt: skip
