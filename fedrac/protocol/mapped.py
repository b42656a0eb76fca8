"""Tensors in the memory of files."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from torch import Tensor

_LARGE = 2**20  # bytes; what has fewer is in memory


def empty_in(folder: Path, like: Tensor) -> Tensor:
    """An empty tensor of the same shape and dtype, in a file of this folder that has no name and goes with it.

    Its pages are the system's to write out and to read again, as those of any mapped file. It is in memory where it is
    small, or where the disk has no room for it.
    """
    found = _file_in(folder, like)
    return torch.empty_like(like) if found is None else found


def in_files(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, in such files where they are not yet in one; what is there already is the very same tensor."""
    found = {}
    for name, tensor in tensors.items():
        place = None if tensor.untyped_storage().filename else _file_in(folder, tensor)
        found[name] = tensor if place is None else place.copy_(tensor)
    return found


def _file_in(folder: Path, like: Tensor) -> Tensor | None:
    if like.nbytes < _LARGE:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder, suffix=".part") as file:
            os.posix_fallocate(file.fileno(), 0, like.nbytes)  # a disk that is full later on would end the process
            return torch.from_file(file.name, shared=True, size=like.numel(), dtype=like.dtype).view(like.shape)
    except (OSError, AttributeError):  # macOS cannot reserve room
        return None


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As a file of safetensors wants them: contiguous, and each in memory of its own.

    Tied weights are one tensor under two names.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.contiguous().clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return found
