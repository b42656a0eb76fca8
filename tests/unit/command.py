"""A tiny run of the ``fedrac`` command, and what it leaves."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TINY = [
    *("data=linear_regression", "data.examples=40", "data.test_examples=10", "data.features=4", "data.outputs=3"),
    *("data.clients=2", "model=mlp", "model.inputs=4", "model.hidden=[5]", "model.outputs=3", "pretrain=none"),
    *("partition=size", "partition.clients=4", "cohort.size=3", "local.batch_size=4", "rounds=2", "evaluate.every=2"),
    "local.schedule.shape=constant",  # a run that goes on for more rounds is as one that had them from the start
]


def lines(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def facts(folder: str) -> list[dict[str, Any]]:
    """All but what depends on when it was run: a server that starts again does not know what its nodes have."""
    passing = ("seconds", "download_bytes")
    return [{name: value for name, value in line.items() if name not in passing} for line in lines(folder)]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder, "checkpoint", "weights.safetensors"))
