"""Uploads and downloads in a few bits: exact bytes, every method, the same weights everywhere."""

from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from runs import equal, methods, start, strategy
from test_node_state import Nodes, folders, run

from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.rounding import BitsSpec, Rounding
from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.coding import CodedRound
from fedrac.results import checkpoint

PLAIN = [
    name
    for name, method in methods().items()
    if type(method) is Method and not method.has_ranks and not method.personal
]


def coded(name: str = "fed_rac_lora", up: int | None = 4, down: int | None = None, **changes: Any) -> FedRacLora:
    return strategy(method=methods()[name], **{"server": ServerSpec(6), "bits": BitsSpec(up, down), **changes})


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["fed_rac_lora", "fedavg"])
def test_bytes_of_a_round(name: str, bits: int) -> None:
    found = coded(name, bits, bits)
    shapes = found.shapes_at(1)
    size = Rounding(bits, 0, ()).size(shapes)
    first, second = runs.train(found, 2, rounds=2)
    assert first.upload_bytes == second.upload_bytes == second.download_bytes == 6 * size
    assert size < 8 * sum(torch.Size(shape).numel() for shape in shapes.values()) / 4


@pytest.mark.parametrize("name", PLAIN)  # another mean may choose otherwise
def test_every_method_finds_nearly_the_same_in_eight_bits(name: str) -> None:
    """Coded is the difference from where a round starts: so carried factors keep their digits, too."""
    whole, few = coded(name, None), coded(name, 8, 8)
    runs.train(whole, 2, rounds=3), runs.train(few, 3, rounds=3)
    first = runs.arrays(start())
    for key, value in whole.effective_weights().items():
        moved, off = (value - first[key]).norm(), (few.effective_weights()[key] - value).norm()
        assert 0 < off < (0.05 if whole.method.average == "factors" else 0.25) * moved, key


@pytest.mark.parametrize("name", ["fed_rac_lora", "fedavg_lora", "fed_cola", "flora", "fedex_lora"])
def test_nodes_that_replay_have_the_same_bits(name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"server": ServerSpec(2, eta=0.7), "adapt": AdaptSpec({"*": 1})}
    usual, found = coded(name, 2, 4, **changes), coded(name, 2, 4, **changes)
    expected = runs.train(usual, 3, rounds=6)
    grid = Nodes(folders(tmp_path))
    reports = run(grid, found)
    equal(found.effective_weights(), usual.effective_weights())
    assert [r.download_bytes for r in reports] == [r.download_bytes for r in expected] and not grid.lacks
    if name == "fed_rac_lora":
        assert max(len(update.steps) for update in grid.updates) > 1


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole, first, second = (coded("fed_rac_lora", 1, 1) for _ in range(3))
    runs.train(whole, 2, rounds=4)
    runs.train(first, 2, rounds=2)
    assert first.state is not None
    checkpoint.save(tmp_path, first.state, first.effective_weights())
    second.start(runs.grid(2), start(), 4, state=checkpoint.load(tmp_path))
    equal(second.effective_weights(), whole.effective_weights())


def test_what_is_decoded_is_right_in_the_mean() -> None:
    """Over rounds, the mean of what the server decodes is what the client sent, also with a start that is not zero."""
    found = coded("fedavg_lora")
    runs.train(found, 1, rounds=1)
    assert found.state is not None
    shapes, at = found.shapes_at(2), found.method.at(2)
    sketches = found.replay._sketches(found.state, 2)
    g = torch.Generator().manual_seed(3)
    sent = {k: torch.randn(1, *shape, generator=g, dtype=torch.float64) for k, shape in shapes.items()}
    total = {k: torch.zeros_like(v) for k, v in sent.items()}
    for number in range(1, 301):
        coding = CodedRound(1, number, found.blocks, at, sketches, found.state).uploads(2)
        assert coding is not None
        for key, value in coding.decode([4], coding.encode([4], sent), shapes, torch.float64).items():
            total[key] += value / 300
    for key, value in sent.items():  # a step of 2/3 of the largest entry, of which at most a half is chance
        off = value - found.state.factors.get(key, 0.0)
        assert (total[key] - value).abs().max() < 5 * off.abs().max() / 3 / 300**0.5 * 1.01


def test_noise_of_the_server_comes_after_decoding() -> None:
    """The clip bounds what is decoded: the noise is that of a run without rounding, and so is what it costs."""
    from fedrac.aggregation.guard import GuardSpec

    pytest.importorskip("dp_accounting")
    private = GuardSpec(clip=0.1, noise=1.0, noise_seed=5)
    reports = [runs.train(coded(up=up, guard=private), 2, rounds=2)[-1].guard for up in (None, 1)]
    assert reports[0]["privacy/epsilon"] == reports[1]["privacy/epsilon"]
    assert reports[1]["guard/clip"] == 0.1 and reports[1]["guard/clipped"] == 1.0


def test_masks_and_scales_of_ones_own_do_not_go_together() -> None:
    from fedrac.aggregation.guard import GuardSpec

    with pytest.raises(ValueError, match=r"upload.bits=4 with secure_aggregation.enabled=true"):
        coded(secure=SecureSpec(enabled=True), guard=GuardSpec(clip=1.0))


def test_malformed_bytes_are_refused() -> None:
    from flwr.app import Array, ArrayRecord, Message

    def cut(replies: list[Message]) -> list[Message]:
        record = replies[0].content.array_records["factors"]
        record["factors"] = Array(record["factors"].numpy()[:, :-1].copy())
        replies[0].content["factors"] = ArrayRecord(dict(record))
        return replies

    found = coded(server=ServerSpec(6, min_fraction=0.3))
    reports: list[Any] = []
    found.start(runs.TamperedGrid(cut), start(), 1, on_round=reports.append)
    assert "field factors is torch.uint8" in str(reports[0].refused[0])


def test_two_sided_cores_are_coded_too() -> None:
    adapt = AdaptSpec({"*": 2}, (), 3.0, columns=3)
    found = strategy(method=Method(side="both"), adapt=adapt, server=ServerSpec(6), bits=BitsSpec(4))
    (report,) = runs.train(found, 2, rounds=1)
    # p, k = 2, 3: rows of three entries, each with a scale.
    assert report.upload_bytes == 6 * 2 * (2 * 2 + 3)
