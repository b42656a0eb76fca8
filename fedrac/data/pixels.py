"""Grey images as they come, into the inputs of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrac.data.examples import Examples
from fedrac.loading.told import told

Classes = Sequence[int] | None
Part = tuple[NDArray[Any], NDArray[Any]]  # images (N, height, width) of 0 .. 255, labels (N,)


def prepare(
    train: Part, test: Part, classes: Classes, mean: float, std: float, partial: bool = False
) -> tuple[Examples, Examples, int]:
    """The examples of the wanted classes of both parts, and the number of classes.

    Args:
        train, test: images (N, height, width) of 0 .. 255 and labels (N,).
        classes: labels to keep, numbered 0, 1, ... in this order; all that occur where None.
        mean, std: inputs are ``(pixel / 255 - mean) / std``.
        partial: some classes may not occur; they must be given then, as others number theirs alike.

    Raises:
        ValueError: arrays of other shapes, classes that do not occur or repeat, or a standard deviation that
            is not positive.
    """
    for images, labels in (train, test):
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise told(
                ValueError(
                    f"images of shape {images.shape} with labels of shape {labels.shape}: they must be "
                    "(N, height, width) and (N,); for other images write a function of your own (data=custom)"
                )
            )
    there = np.unique(train[1]).tolist()
    wanted = there if classes is None else list(classes)
    if partial and classes is None:
        wrong = "data.classes is not set: give the list of all classes"
        raise told(ValueError(f"{wrong}, e.g. data.classes={there}"), wrong)
    if not wanted or len(set(wanted)) < len(wanted) or not (partial or set(wanted) <= set(there)):
        wrong = f"data.classes={wanted}: choose different ones"
        raise told(ValueError(f"{wrong} of {there}, or null for all"), f"{wrong} that are there")
    if std <= 0:
        raise told(ValueError(f"data.std={std} is not positive: use the standard deviation of the pixels, e.g. 0.3081"))
    return _select(*train, wanted, mean, std), _select(*test, wanted, mean, std), len(wanted)


def _select(images: NDArray[Any], labels: NDArray[Any], wanted: list[int], mean: float, std: float) -> Examples:
    kept = np.isin(labels, wanted)
    inputs = images[kept, None].astype(np.float32)  # (n, 1, height, width)
    inputs /= 255
    inputs -= mean
    inputs /= std
    numbers = np.full(max(wanted) + 1, -1, dtype=np.int64)
    numbers[wanted] = np.arange(len(wanted))
    return Examples(inputs, numbers[labels[kept]])


def restore(examples: Examples, classes: list[int], mean: float, std: float) -> Part:
    """The inverse of `prepare`, exact for pixels that were whole numbers of 0 .. 255.

    Args:
        examples: inputs (N, 1, height, width), targets (N,).
        classes: the label of every number.
        mean, std: as `prepare` was given them.
    """
    pixels = np.rint((np.asarray(examples.inputs, np.float64) * std + mean) * 255)
    return pixels[:, 0].astype(np.uint8), np.asarray(classes)[examples.targets]
