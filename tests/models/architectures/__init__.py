"""Every architecture of the table, tiny, by family. A new one is a line in its family's file."""

from architectures import of_torchvision, other, plain, sequences, text, vision
from architectures.architecture import Architecture

__all__ = ["ALL", "Architecture"]

ALL: tuple[Architecture, ...] = (
    *plain.LAYERS, *sequences.SEQUENCES, *vision.IMAGES, *of_torchvision.MODELS,
    *text.ENCODERS, *text.DECODERS, *text.BOTH, *text.STATE_SPACE, *text.EXPERTS, *other.IMAGES, *other.SOUNDS,
)  # fmt: skip
