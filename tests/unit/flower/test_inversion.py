"""A crafted model reads records out of one full update of the first layer (Fowl et al., 2022); a policy forbids it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from runs import strategy, workload
from torch import Tensor

from fedrac import models
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app, node
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol.messages import from_record, to_record, unpack
from fedrac.protocol.policy import OPEN
from fedrac.training.optimizer import LocalSpec

RECORDS, FEATURES, HIDDEN = 40, 6, 1000
SHAPES = {"layers.0.weight:D": (HIDDEN, FEATURES), "layers.0.bias:D": (HIDDEN,)}
TABLE = {
    "_target_": "fedrac.data.table.table", "path": None, "target": "y", "features": [f"x{i}" for i in range(FEATURES)],
    "classes": [0, 1], "standardize": False,
}  # fmt: skip
WORK = workload(
    data=TABLE,
    partition={"scheme": "nodes"},
    model={"_target_": "fedrac.models.mlp", "inputs": FEATURES, "hidden": [HIDDEN], "outputs": 2},
)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What the node has; (RECORDS, FEATURES)."""
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path / "cache"))
    node.forget()
    values = np.random.default_rng(7).random((RECORDS, FEATURES)).astype(np.float32)
    rows = [",".join(map(repr, [*map(float, row), n % 2])) for n, row in enumerate(values)]
    (tmp_path / "train.csv").write_text("\n".join([",".join([*TABLE["features"], "y"]), *rows]))  # type: ignore[misc]
    return torch.from_numpy(values).double()


def crafted() -> dict[str, Tensor]:
    """Hidden unit i is on for the records whose sum is above the i-th threshold, and all units matter alike."""
    weights = {
        k: torch.zeros_like(v, dtype=torch.float64) for k, v in models.build(WORK["model"], 1).state_dict().items()
    }
    weights["layers.0.weight"] += 1.0
    weights["layers.0.bias"] -= torch.linspace(0, FEATURES, HIDDEN, dtype=torch.float64)
    weights["layers.1.weight"][0] += 1e-3
    return weights


def attack(folder: Path, policy: str) -> RecordDict:
    """One training message, with the crafted model, to the one client."""
    grid = InProcessGrid(client_app.app, [{"partition-id": 0, "data": str(folder)}])
    server = strategy(
        WORK,
        adapt=AdaptSpec({"*.0": "full"}, ("layers.0.bias",)),
        local=LocalSpec("sgd", 1.0, sampling="full"),
        server=ServerSpec(1),
    )
    (message,) = server.configure_train(1, to_record(crafted()), ConfigRecord(), grid)
    config = {"partition-id": 0, "data": str(folder), "state": "memory", "policy": policy}
    sent = Message(message.content, 1, MessageType.TRAIN)
    sent.metadata.__dict__["_message_id"] = "1"
    return client_app.app(sent, Context(5, 1, config, RecordDict(), {})).content


def recovered(answer: RecordDict, records: Tensor) -> int:
    """How many records the update tells to four digits: the difference of two neighbours is one record's share."""
    found = unpack(from_record(answer.array_records["factors"])["factors"], SHAPES)
    rows, shares = found["layers.0.weight:D"][0].diff(dim=0), found["layers.0.bias:D"][0].diff()
    guesses = rows[shares.abs() > 1e-12] / shares[shares.abs() > 1e-12].unsqueeze(1)
    return int((torch.cdist(records, guesses).min(1).values < 1e-4).sum())


def test_what_the_attack_finds(tmp_path: Path, records: Tensor) -> None:
    """Where everything is allowed, most of the records; under the strict policy there is no update to read."""
    assert recovered(attack(tmp_path, OPEN), records) > RECORDS / 2
    (tmp_path / "policy.yaml").write_text("")
    answer = attack(tmp_path, str(tmp_path / "policy.yaml"))
    assert "layers.0.weight of the first layer may not be trained in full" in str(answer["error"]["reason"])
    assert not answer.array_records


def test_noise_of_its_own_hides_them(tmp_path: Path, records: Tensor) -> None:
    (tmp_path / "policy.yaml").write_text("full_first: true\nclip: 1\nnoise: 1\nevaluate: false\n")
    assert recovered(attack(tmp_path, str(tmp_path / "policy.yaml")), records) == 0
