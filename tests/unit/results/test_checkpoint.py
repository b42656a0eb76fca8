"""Checkpoints: whole or not there, whenever the machine stops; and the run's state comes back bit for bit."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from command import TINY
from flwr.app import Message, MessageType
from runs import equal
from safetensors.torch import load_file
from torch import Tensor, nn

from fedrac import models
from fedrac.aggregation.guard import GuardSpec
from fedrac.algorithm.state import GuardState, ServerState, Spent
from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.results import checkpoint
from fedrac.results.checkpoint_schedule import Checkpoints, CheckpointSpec
from fedrac.results.record import Record


def state(round_: int, carried: bool = False) -> ServerState:
    generator = torch.Generator().manual_seed(round_)
    weights = {"a.weight": torch.rand(3, 4, generator=generator), "count": torch.tensor(round_)}
    factors = {"a.weight:A": torch.rand(2, 4, generator=generator, dtype=torch.float64)} if carried else {}
    return ServerState(round_, weights, factors)


def merged(of: ServerState) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in of.weights.items()} if of.factors else dict(of.weights)


def save(folder: Path, of: ServerState) -> None:
    checkpoint.save(folder, of, merged(of))


def same(actual: ServerState, expected: ServerState) -> None:
    assert actual.round == expected.round
    equal(dict(actual.weights), dict(expected.weights))
    equal(dict(actual.factors), dict(expected.factors))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("carried", [False, True])
def test_a_state_comes_back_as_it_was(tmp_path: Path, carried: bool) -> None:
    for round_ in (1, 2):
        save(tmp_path, state(round_, carried))
    same(checkpoint.load(tmp_path), state(2, carried))
    equal(load_file(tmp_path / "checkpoint" / "weights.safetensors"), merged(state(2, carried)))
    assert names(tmp_path) == ["checkpoint", "checkpoint.1"]


def test_a_method_that_carries_nothing_leaves_no_old_factors(tmp_path: Path) -> None:
    save(tmp_path, state(1, carried=True))
    save(tmp_path, state(2))
    same(checkpoint.load(tmp_path), state(2))


def test_weights_are_a_plain_state_dict(tmp_path: Path) -> None:
    spec = {"_target_": "fedrac.models.mlp", "inputs": 4, "hidden": [5], "outputs": 3}
    model, other = models.build(spec, 1), models.build(spec, 2)
    checkpoint.save(tmp_path, ServerState(1, model.state_dict(), {}), model.state_dict())
    other.load_state_dict(load_file(tmp_path / "checkpoint" / "weights.safetensors"))
    equal(dict(other.state_dict()), dict(model.state_dict()))


def test_tied_and_transposed_weights(tmp_path: Path) -> None:
    tied = nn.Parameter(torch.rand(4, 3).T)
    weights = {"embed.weight": tied.data, "head.weight": tied.data}
    save(tmp_path, ServerState(1, weights, {}))
    equal(dict(checkpoint.load(tmp_path).weights), weights)


class Crash(BaseException):
    """The machine stops."""


def crash_at(patch: pytest.MonkeyPatch, name: str, call: int) -> None:
    """The ``call``-th use of ``name`` on a path is the last thing that does not happen."""
    original: Callable[..., Any] = getattr(Path, name)
    left = [call]

    def stop(self: Path, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise Crash
        return original(self, *args, **kwargs)

    patch.setattr(Path, name, stop)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize(("name", "call"), [("mkdir", 1), ("write_text", 1), ("rename", 1), ("rename", 2)])
@pytest.mark.parametrize("crashes", [1, 2])
def test_one_whole_checkpoint_is_there_whenever_the_machine_stops(
    tmp_path: Path, name: str, call: int, carried: bool, crashes: int
) -> None:
    """Also if it stops again in the same place; and the next attempt succeeds."""
    save(tmp_path, state(1, carried))
    for _ in range(crashes):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
            crash_at(patch, name, call)
            save(tmp_path, state(2, carried))
        found = checkpoint.load(tmp_path)
        same(found, state(found.round, carried))
        if (name, call) == ("rename", 2) and not (tmp_path / "checkpoint").exists():
            call = 1  # nothing is in the way now: the next attempt has one rename
    save(tmp_path, state(3, carried))
    same(checkpoint.load(tmp_path), state(3, carried))
    assert names(tmp_path) in (["checkpoint", "checkpoint.1"], ["checkpoint", "checkpoint.2"])


def test_between_the_two_renames(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, "rename", 2)
        save(tmp_path, state(2))
    assert names(tmp_path) == ["checkpoint.1", "checkpoint.new"]
    same(checkpoint.load(tmp_path), state(1))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [_cut, _flip, Path.unlink, lambda p: p.write_bytes(b"")], ids=["cut", "flip", "no", "empty"]
)
@pytest.mark.parametrize("name", ["weights.safetensors", "carried.safetensors"])
def test_a_damaged_file_is_recognised(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    save(tmp_path, state(1, carried=True))
    damage(tmp_path / "checkpoint" / name)
    with pytest.raises(ValueError, match="is damaged; start the run anew"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"round": 1}', '{"round": 1, "sha256": []}'])
def test_a_damaged_state_is_recognised(tmp_path: Path, text: str) -> None:
    save(tmp_path, state(1))
    (tmp_path / "checkpoint" / "state.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_last_ones_are_kept(tmp_path: Path, keep: int) -> None:
    for round_ in range(1, 7):
        checkpoint.save(tmp_path, state(round_), merged(state(round_)), keep)
    assert names(tmp_path) == ["checkpoint", *(f"checkpoint.{number}" for number in range(7 - keep, 6))]


def test_the_one_before_stands_in_for_a_damaged_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As far back as there are any; the log says which were skipped; rounds done again replace them."""
    for round_ in range(9, 13):
        checkpoint.save(tmp_path, state(round_), merged(state(round_)), 3)
    same(checkpoint.load(tmp_path), state(12))
    assert not caplog.messages
    _cut(tmp_path / "checkpoint" / "weights.safetensors")
    same(checkpoint.load(tmp_path), state(11))
    (tmp_path / "checkpoint.11" / "state.json").unlink()
    same(checkpoint.load(tmp_path), state(10))
    skipped = {message.split()[2] for message in caplog.messages}
    assert skipped == {str(tmp_path / "checkpoint"), str(tmp_path / "checkpoint.11")}
    checkpoint.save(tmp_path, state(11), merged(state(11)), 3)
    assert names(tmp_path) == ["checkpoint", "checkpoint.10"]
    same(checkpoint.load(tmp_path), state(11))


def test_the_best_one_stays(tmp_path: Path) -> None:
    """Unchanged by what is written or damaged later, and a last resort."""
    for round_ in range(1, 4):
        save(tmp_path, state(round_))
        if round_ == 1:
            checkpoint.mark_best(tmp_path)
    equal(load_file(tmp_path / "best" / "weights.safetensors"), merged(state(1)))
    for name in ("checkpoint", "checkpoint.2"):
        _cut(tmp_path / name / "weights.safetensors")
    same(checkpoint.load(tmp_path), state(1))
    save(tmp_path, state(2))
    checkpoint.mark_best(tmp_path)
    equal(load_file(tmp_path / "best" / "weights.safetensors"), merged(state(2)))


def test_a_damaged_checkpoint_does_not_become_the_best(tmp_path: Path) -> None:
    for round_ in (1, 2):
        save(tmp_path, state(round_))
    _cut(tmp_path / "checkpoint" / "weights.safetensors")
    checkpoint.mark_best(tmp_path)
    equal(load_file(tmp_path / "best" / "weights.safetensors"), merged(state(1)))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_with_noise_every_round_has_a_checkpoint(tmp_path: Path, noise: float) -> None:
    """However seldom they are asked for: what noise has hidden is never told twice."""
    noisy = runs.strategy(guard=GuardSpec(clip=1.0, noise=noise))
    checkpoints = Checkpoints(tmp_path, CheckpointSpec(every=10, best=None), noisy)
    runs.train(noisy, rounds=2, on_round=checkpoints.after)
    assert (tmp_path / "checkpoint").exists() == bool(noise)
    if noise:
        assert checkpoint.load(tmp_path).round == 2


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_with_noise_clients_test_nothing_that_is_not_on_disk(tmp_path: Path, noise: float) -> None:
    noisy = runs.strategy(guard=GuardSpec(clip=1.0, noise=noise), evaluate_on_clients=True)
    checkpoints = Checkpoints(tmp_path, CheckpointSpec(best=None), noisy)
    written: list[int] = []

    class Watched(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], **given: Any) -> Iterable[Message]:
            sent = list(messages)
            if sent[0].metadata.message_type == MessageType.EVALUATE:
                written.append(checkpoint.load(tmp_path).round if (tmp_path / "checkpoint").exists() else 0)
            return super().send_and_receive(sent, **given)

    hooks = {"on_round": checkpoints.after, "before_clients": checkpoints.before_clients}
    noisy.start(Watched(client_app.app), runs.start(noisy.workload), 3, **hooks)
    assert written == ([1, 2, 3] if noise else [0, 1, 2])
    assert names(tmp_path) == ["checkpoint", "checkpoint.1"]


def test_with_noise_no_older_checkpoint_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    """Its rounds would be done again with the same noise."""
    noisy = GuardState(spent=(Spent(4, 6, 0.5, 1),))
    for round_ in (1, 2):
        save(tmp_path, replace(state(round_), guard=noisy))
    same(checkpoint.load(tmp_path), state(2))
    _cut(tmp_path / "checkpoint" / "weights.safetensors")
    with pytest.raises(ValueError, match=f"{tmp_path}/checkpoint is damaged. With guard.noise no round is done again"):
        checkpoint.load(tmp_path)
    equal(checkpoint.merged(tmp_path)[0], merged(state(1)))


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the output_dir of a run that finished a round"):
        checkpoint.load(tmp_path)


def test_state_says_what_there_is(tmp_path: Path) -> None:
    save(tmp_path, state(4, carried=True))
    about = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert about["round"] == 4
    assert set(about["sha256"]) == {"weights.safetensors", "carried.safetensors"}
    assert len(files(tmp_path)) == 3


def test_who_finds_a_summary_finds_the_weights_that_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops a run while it writes its summary."""
    output, summarise, there = tmp_path / "run", Record.summarise, list[int]()

    def looking(self: Record, *arguments: Any, **options: Any) -> dict[str, Any]:
        there.append(json.loads((output / "checkpoint" / "state.json").read_text())["round"])
        return summarise(self, *arguments, **options)

    monkeypatch.setattr(Record, "summarise", looking)
    settings = compose.load([*TINY, "rounds=3", f"output_dir={output}"])
    run(settings, in_process(settings), output)
    assert there == [3]
