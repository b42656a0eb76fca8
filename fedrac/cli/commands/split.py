"""``fedrac split DIR [KEY=VALUE ...]``: a folder for every node and one for the server, from a common data set."""

import argparse
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fedrac import data
from fedrac.algorithm.streams import Index
from fedrac.data import idx, pixels, table
from fedrac.experiment import compose
from fedrac.experiment.settings import Experiment, parse
from fedrac.partition import partition

Write = Callable[[Path, Index | None], None]  # rows of a client, or None for the server's part, into a folder


def main(argv: Sequence[str]) -> int:
    """Divides ``data`` as ``partition`` says: client c has ``DIR/node-c``, and the test part is in ``DIR/server``.

    Images become IDX files, the rows of a table Parquet files. The server also gets what pre-training needs.

    Raises:
        ValueError: the data are neither images nor a table, or cannot be divided so.
        FileExistsError: ``DIR`` is there.
    """
    parser = argparse.ArgumentParser(prog="fedrac split", description="Divide a data set into a folder for every node.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="data=..., partition.clients=3, seed=2, ...")
    given = parser.parse_args(argv)
    folder: Path = given.folder.expanduser().absolute()
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: choose another folder, or remove it")
    experiment = parse(compose.load(given.overrides))
    common = data.load(experiment.data)
    divided = partition.make(experiment.partition, common, experiment.seed)
    write = _images(experiment, common) if "mean" in experiment.data else _rows(experiment)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for client in range(divided.clients):
            write(_made(unfinished / f"node-{client}"), divided.of(client))
        write(_made(unfinished / "server"), None)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(
        f"{folder}: {divided.clients} nodes with {', '.join(map(str, divided.sizes))} examples, and the server's part"
    )
    return 0


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _images(experiment: Experiment, common: data.Data) -> Write:
    def restore(found: data.Data, part: str, classes: Sequence[int] | None) -> pixels.Part:
        labels = list(range(found.outputs)) if classes is None else list(classes)
        return pixels.restore(getattr(found, part), labels, experiment.data["mean"], experiment.data["std"])

    classes, pretrain = experiment.data.get("classes"), experiment.pretrain
    images, labels = restore(common, "train", classes)
    server = {"t10k": [restore(common, "test", classes)]}
    if pretrain.enabled:
        spec = {**experiment.data, **(pretrain.data or {})}
        other = data.load(spec)
        server["t10k"].append(restore(other, "test", spec["classes"]))
        server["train"] = [restore(other, "train", spec["classes"])]

    def write(folder: Path, rows: Index | None) -> None:
        parts = {"train": [(images[rows], labels[rows])]} if rows is not None else server
        for part, found in parts.items():
            columns = [np.concatenate(column) for column in zip(*found, strict=True)]
            for name, column in zip(("images-idx3", "labels-idx1"), columns, strict=True):
                idx.write(folder / f"{part}-{name}-ubyte.gz", column)

    return write


def _rows(experiment: Experiment) -> Write:
    if "target" not in experiment.data:
        raise ValueError("fedrac split divides images and tables: data=digits, data=idx, data=table ...")
    train, test = table.parts(**{key: value for key, value in experiment.data.items() if key != "_target_"})

    def write(folder: Path, rows: Index | None) -> None:
        part, frame = ("test", test) if rows is None else ("train", train.iloc[rows])
        frame.to_parquet(folder / f"{part}.parquet", index=False)

    return write
