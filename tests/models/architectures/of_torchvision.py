"""Models of torchvision's own classes, made small, where it is installed and fits the torch that is."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from architectures.architecture import CLASSES, Architecture, images

try:
    from torchvision import models
    from torchvision.models import convnext, efficientnet, regnet, resnet
except (ImportError, RuntimeError):  # not there, or made for another torch
    MODELS: tuple[Architecture, ...] = ()
else:

    def of(name: str, make: Callable[[], nn.Module], size: int = 32, **more: Any) -> Architecture:
        return Architecture(name, "torchvision", make, partial(images, size), quick=False, **more)

    def _efficientnet() -> nn.Module:
        settings = [efficientnet.MBConvConfig(4, 3, 2, 8, 8, 1, 1.0, 1.0)]
        return models.EfficientNet(settings, 0.0, stochastic_depth_prob=0.0, num_classes=CLASSES, last_channel=16)

    def _convnext() -> nn.Module:
        return models.ConvNeXt([convnext.CNBlockConfig(8, 12, 1), convnext.CNBlockConfig(12, None, 1)],
                               num_classes=CLASSES)  # fmt: skip

    def _regnet() -> nn.Module:
        sizes = regnet.BlockParams.from_init_params(depth=4, w_0=8, w_a=8.0, w_m=2.0, group_width=8)
        return models.RegNet(sizes, num_classes=CLASSES, stem_width=8)

    MODELS = (
        of("ResNet", lambda: models.ResNet(resnet.BasicBlock, [1, 1, 1, 1], CLASSES)),
        of("SqueezeNet 1.1", lambda: models.squeezenet1_1(num_classes=CLASSES, dropout=0.0)),
        of("DenseNet", lambda: models.DenseNet(4, (1, 1), 8, num_classes=CLASSES)),
        of("ShuffleNetV2", lambda: models.ShuffleNetV2([1, 1, 1], [8, 8, 16, 32, 32], CLASSES)),
        of("MobileNetV2", lambda: models.MobileNetV2(CLASSES, 0.1, [[2, 8, 1, 2]], 8, dropout=0.0)),
        of("EfficientNet", _efficientnet),
        of("ConvNeXt", _convnext),
        of("RegNet", _regnet),
        of("ViT", lambda: models.VisionTransformer(16, 8, 1, 2, 8, 12, num_classes=CLASSES), 16),
        of("Swin", lambda: models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], stochastic_depth_prob=0.0,
                                                  num_classes=CLASSES), 16),
    )  # fmt: skip
