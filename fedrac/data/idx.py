"""The IDX format of MNIST: a magic number, the sizes (big-endian), the bytes."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.loading.told import told

PARTS = ("train", "t10k")
_STEMS = tuple(f"{part}-{what}" for part in PARTS for what in ("images", "labels"))


def find(folder: Path, partial: bool = False) -> dict[str, tuple[Path, Path]]:
    """The images and the labels of a folder, by part: ``train`` for training, ``t10k`` for testing.

    Each file is named e.g. ``train-images-idx3-ubyte`` or ``train-images.idx3-ubyte``, with ``.gz`` if compressed.

    Args:
        folder: where they are.
        partial: one of the parts may be missing.

    Raises:
        FileNotFoundError: the folder or one of the files is not there.
    """
    if not folder.is_dir():
        wanted = f"set data.path to the folder with {', '.join(map(_name, _STEMS))} (or .gz)"
        raise told(FileNotFoundError(f"there is no folder {folder}: {wanted}"))
    there = [part for part in PARTS if not partial or any(folder.glob(f"{part}-*"))] or PARTS
    return {part: (_find(folder, f"{part}-images"), _find(folder, f"{part}-labels")) for part in there}


def _name(stem: str) -> str:
    return f"{stem}-idx{3 if stem.endswith('images') else 1}-ubyte"


def _find(folder: Path, stem: str) -> Path:
    name = _name(stem)
    names = [variant + end for variant in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for path in (folder / name for name in names):
        if path.is_file():
            return path
    raise told(
        FileNotFoundError(
            f"{folder} has no {stem}: looked for {', '.join(names)}. Set data.path to the folder that has it"
        )
    )


def read(path: Path) -> NDArray[Any]:
    """The array of an IDX file of unsigned bytes: (N,) labels or (N, height, width) images, uint8.

    Raises:
        ValueError: the file is not one, or is cut short.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise told(ValueError(f"{path} is damaged ({error}): fetch it again"), f"{path} is damaged") from error
    if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        wrong = f"{path} is not an IDX file of bytes"
        raise told(ValueError(f"{wrong}: it begins with {data[:4].hex(' ') or 'nothing'}"), wrong)
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != np.prod(shape, dtype=np.int64):
        wrong = f"{path} has {values.size} values, its header says {shape.tolist()}: fetch it again"
        raise told(ValueError(wrong), f"{path} has more or fewer values than its header says")
    return values.reshape(shape)


def write(path: Path, values: NDArray[np.uint8]) -> None:
    """The inverse of `read`, of (N, ...); compressed where the name ends in ``.gz``; equal values, equal bytes."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    data = header + np.ascontiguousarray(values, np.uint8).tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
