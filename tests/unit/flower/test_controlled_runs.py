"""SCAFFOLD and FedDyn in whole runs; `runs.methods` has them for all that every method does."""

from dataclasses import replace
from typing import Any

import pytest
import runs
import torch
from command import TINY
from runs import methods, strategy

import fedrac
from fedrac.aggregation.guard import GuardSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.training.optimizer import LocalSpec

SGD = ["local.optimizer=sgd", "local.lr=0.05"]
NUMBERS = 4 * 5 + 5 * 3 + 3 + 5  # of both layers and their biases


@pytest.mark.parametrize(("name", "times"), [("scaffold", 2), ("feddyn", 1)])
def test_what_is_sent_and_what_stays(name: str, times: int) -> None:
    found = strategy(method=methods()[name], server=ServerSpec(runs.CLIENTS))
    reports = runs.train(found, 2, rounds=2)
    assert [report.upload_bytes for report in reports] == 2 * [8 * runs.CLIENTS * times * NUMBERS]
    assert found.state is not None and set(found.state.clients) == set(range(runs.CLIENTS))
    kept = found.state.clients[0]
    assert sum(value.numel() for value in kept.values()) == NUMBERS and all(key.endswith("/control") for key in kept)


def test_the_server_has_the_mean_of_all_controls() -> None:
    """Also of those who were not drawn: their controls are zero, or what they were."""
    found = strategy(method=methods()["scaffold"], server=ServerSpec(2))
    runs.train(found, 2, rounds=4)
    assert found.state is not None and len(found.state.clients) > 2
    for name in ("layers.0.weight:D", "layers.1.bias:D"):
        total = sum(own[f"{name}/control"] for own in found.state.clients.values())
        torch.testing.assert_close(found.state.moments[f"{name}/c"], total / runs.CLIENTS, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_a_run_goes_on_with_every_clients_control(name: str, tmp_path: Any) -> None:
    command = [*TINY, *SGD, f"method={name}", "method.participation=0.5", "cohort.size=2"]
    whole = fedrac.run(*command, "rounds=6", f"output_dir={tmp_path / 'whole'}", progress=False)
    fedrac.run(*command, "rounds=4", f"output_dir={tmp_path / 'part'}", progress=False)
    resumed = fedrac.run(f"resume={tmp_path / 'part'}", "rounds=6", progress=False)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value)
    ours, theirs = (runs.load(tmp_path / part / "checkpoint/clients.safetensors") for part in ("whole", "part"))
    runs.equal(ours, theirs)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_another_number_of_clients_than_the_method_was_told(name: str) -> None:
    found = strategy(method=methods()[name], server=ServerSpec(3))
    found.method = replace(found.method, participation=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"method.participation=0.1, but 3 of 6 clients.*set method.participation=0.5"):
        runs.train(found, rounds=1)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("scaffold", {"local": LocalSpec("adamw")}, "set local.optimizer=sgd local.momentum=0"),
        ("scaffold", {"local": LocalSpec(momentum=0.5)}, "set local.optimizer=sgd local.momentum=0"),
        ("scaffold", {"guard": GuardSpec(clip=1.0)}, "has a mean of its own"),
        ("feddyn", {"guard": GuardSpec(clip=1.0)}, "are for methods without controls of clients"),
    ],
)
def test_what_does_not_go_together(name: str, changes: dict[str, Any], message: str) -> None:
    work = runs.workload()
    with pytest.raises(ValueError, match=message):
        FedRacLora(runs.models.build(work["model"], 1), work, method=methods()[name], **changes)
