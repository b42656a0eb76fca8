"""FLASC in whole runs: bytes, what is refused; `runs.methods` has it for all that every method does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import runs
import torch
from flwr.app import Array, ArrayRecord, Message, MessageType
from runs import equal, methods, strategy

from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.rounding import BitsSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora

ALL = ServerSpec(runs.CLIENTS)
FACTORS = 2 * (4 + 5) + 2 * (5 + 3)  # of both layers, at rank 2
FULL = 3 + 5  # the biases


def flasc(down: float = 0.25, up: float = 0.25, **changes: Any) -> FedRacLora:
    method = replace(methods()["flasc"], download_density=down, upload_density=up)  # type: ignore[call-arg]
    return strategy(method=method, **{"server": ALL, **changes})


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(("down", "up"), [(0.25, 0.25), (0.02, 0.5), (1.0, 1.0)])
def test_bytes_of_a_round(down: float, up: float, full: bool) -> None:
    """Both ways a bit for each entry, or 32 for each that is sent, and the values; biases go whole, once moved."""

    def sent(entries: int, density: float) -> int:
        kept = max(round(density * entries), 1)
        return 8 * kept + (0 if kept == entries else min(-(-entries // 8), 4 * kept))

    found = flasc(down, up, adapt=AdaptSpec({"*": 2}, ("*.bias",) if full else (), 3.0))
    first, second = runs.train(found, 3, rounds=2)
    whole = FULL if full else 0
    assert first.upload_bytes == second.upload_bytes == runs.CLIENTS * (sent(FACTORS, up) + 8 * whole)
    assert first.download_bytes == runs.CLIENTS * sent(FACTORS, down)
    assert second.download_bytes == runs.CLIENTS * (sent(FACTORS, down) + 8 * whole)
    assert found.uploads() == (max(round(up * FACTORS), 1) + whole,)


def test_who_was_away_is_sent_no_more() -> None:
    """A message has the factors as they are: nobody needs what was sent to others before."""
    found = flasc(adapt=AdaptSpec({"*": 2}), server=ServerSpec(2))
    reports = runs.train(found, 3, rounds=8)
    assert len({report.download_bytes for report in reports}) == 1
    assert len({tuple(report.cohort) for report in reports}) > 3


def test_the_model_is_what_clients_are_sent() -> None:
    """The entries that nobody is sent are kept in the state, and are in no model."""
    found, dense = flasc(0.1, 0.5), flasc(1.0, 0.5)
    runs.train(found, 2, rounds=2)
    dense.start(runs.grid(2), runs.start(), 2, state=found.state)  # tests nothing, as no round is left
    assert found.state is not None
    flat = np.concatenate([found.state.factors[key].flatten().numpy() for key in sorted(found.state.factors)])
    kept = set(np.argsort(-np.abs(flat), kind="stable")[: round(0.1 * FACTORS)].tolist())
    sent, place = {}, 0
    for key in sorted(found.state.factors):
        value = found.state.factors[key].clone()
        for i in range(value.numel()):
            value.view(-1)[i] *= float(place + i in kept)
        sent[key], place = value, place + value.numel()
    equal(dense.replay.merged(replace(found.state, factors=sent)), found.effective_weights())
    assert any(not torch.equal(w, dense.replay.merged(found.state)[n]) for n, w in found.effective_weights().items())


def test_a_clip_bounds_what_is_decoded() -> None:
    found, bound = flasc(guard=GuardSpec(clip=0.05)), 0.05
    runs.train(found, 2, rounds=1)
    assert found.state is not None
    before = flasc()
    before.open(runs.arrays(runs.start()), 1)
    assert before.state is not None
    moved = [(value - before.state.factors[key]).norm() ** 2 for key, value in found.state.factors.items()]
    moved += [(found.state.weights[n] - w).norm() ** 2 for n, w in before.state.weights.items()]
    assert 0 < float(sum(moved)) ** 0.5 <= bound * (1 + 1e-9)


def tampered(change: Any) -> list[Any]:
    def tamper(replies: list[Message]) -> list[Message]:
        coded = replies[0].content.array_records["factors"]["factors"].numpy().copy()
        replies[0].content["factors"] = ArrayRecord({"factors": Array(change(coded))})
        return replies

    found, reports = flasc(server=ServerSpec(6, min_fraction=0.3)), []
    found.start(runs.TamperedGrid(tamper), runs.start(), 1, on_round=reports.append)
    return list(reports[0].refused)


def not_finite(coded: Any) -> Any:
    coded[0, -8:] = np.array([np.nan]).view(np.uint8)
    return coded


@pytest.mark.parametrize(
    ("change", "reason", "clients"),
    [
        (lambda coded: coded[:, :-1].copy(), "field factors is torch.uint8", 2),
        (lambda coded: np.zeros_like(coded), "field factors: the places are not 8 different ones of 34", 2),
        (not_finite, "not finite", 1),
    ],
)
def test_malformed_uploads_are_refused(change: Any, reason: str, clients: int) -> None:
    (refused,) = tampered(change)
    assert reason in str(refused) and len(refused.clients) == clients


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: None, "the factors that the round starts from are missing"),
        (lambda record: record["factors"].numpy()[:-1].copy(), "the factors to start from are torch.uint8"),
        (lambda record: np.zeros_like(record["factors"].numpy()), "the places are not 8 different ones of 34"),
        (lambda record: record["factors"].numpy().astype(np.float32), "the factors to start from are torch.float32"),
    ],
)
def test_a_node_refuses_a_start_that_is_none(change: Any, message: str) -> None:
    found, grid = flasc(), runs.grid()
    found.rounds = 1
    (sent,) = found.configure_train(1, runs.start(), None, grid)  # type: ignore[arg-type]
    assert sent.metadata.message_type == MessageType.TRAIN
    value = change(sent.content.array_records["start"])
    del sent.content["start"]
    if value is not None:
        sent.content["start"] = ArrayRecord({"factors": Array(value)})
    (answer,) = grid.send_and_receive([sent])
    assert message in str(answer.content.config_records["error"]["reason"])


def test_there_must_be_factors() -> None:
    with pytest.raises(ValueError, match=r"FLASC: adapt\.layers names nothing of low rank"):
        flasc(adapt=AdaptSpec({"*": "full"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": BitsSpec(upload=4)},
        {"bits": BitsSpec(download=8)},
        {"secure": SecureSpec(enabled=True), "guard": GuardSpec(clip=1.0)},
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"set secure_aggregation=off upload\.bits=null download\.bits=null"):
        flasc(**changes)


def test_half_the_numbers_in_float32() -> None:
    one, other = (runs.train(flasc(work=runs.workload(dtype=dtype)), rounds=1)[0] for dtype in ("float64", "float32"))
    places, kept = -(-FACTORS // 8), round(0.25 * FACTORS)
    assert (one.upload_bytes, other.upload_bytes) == tuple(6 * (places + n * (kept + FULL)) for n in (8, 4))
