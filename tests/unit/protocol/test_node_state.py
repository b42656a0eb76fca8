"""Nodes that keep, lose, or spoil their copy of the weights: the run is the same bit for bit, the bytes are not."""

import errno
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from flwr.app import Message, MessageType
from runs import equal, methods, start, strategy, workload

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.state import ServerState
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol import catch_up, node_state, state_digest, state_log
from fedrac.protocol.connected_clients import Hosted
from fedrac.protocol.downloads import Downloads
from fedrac.protocol.messages import decode_update
from fedrac.protocol.node_state import CannotRebuild, Initial, NodeState
from fedrac.protocol.replies import lack_of
from fedrac.protocol.round_report import RoundReport
from fedrac.protocol.state_log import StateLog, Step, Update

ROUNDS = 6


class Nodes(InProcessGrid):
    """Each message goes to a new process, as in Flower's default isolation: nothing stays in memory.

    Attributes:
        lacks: of every answer that asked for more, why.
        updates: of every training message, what it carried.
    """

    def __init__(self, folders: Sequence[object]) -> None:
        config = {"num-partitions": len(folders)}
        super().__init__(
            client_app.app, [{**config, "partition-id": n, "state": str(path)} for n, path in enumerate(folders)]
        )
        self.lacks: list[str] = []
        self.updates: list[Update] = []

    def _deliver(self, message: Message) -> str:
        if message.metadata.message_type == MessageType.TRAIN:
            self.updates.append(decode_update(message.content))
        with contextmanager(self._process)():
            key = super()._deliver(message)
        if (reason := lack_of(self._replies[key])) is not None:
            self.lacks.append(reason)
        return key

    def _process(self) -> Iterator[None]:
        latest, node_state._latest = node_state._latest, None
        yield
        node_state._latest = latest


class Accident(Nodes):
    """Something happens on all nodes before round 4."""

    def __init__(self, folders: Sequence[object], happen: Any) -> None:
        super().__init__(folders)
        self.happen = happen

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        if sent[0].metadata.group_id == "4" and self.happen:
            self.happen()
            self.happen = None
        return list(super().send_and_receive(sent, timeout=timeout))


def settings(name: str = "fed_rac_lora") -> dict[str, Any]:
    return {
        "method": methods()[name],
        "adapt": AdaptSpec({"*": 1}),
        "server": ServerSpec(2, eta=0.7),
        "evaluate_on_clients": name == "fed_cola",
    }


def run(grid: InProcessGrid, found: FedRacLora, rounds: int = ROUNDS, **arguments: Any) -> list[RoundReport]:
    reports: list[RoundReport] = []
    found.start(grid, start(found.workload), rounds, on_round=reports.append, **arguments)
    return reports


def folders(path: Path, count: int = 3) -> list[Path]:
    return [path / str(n) for n in range(count)]


@pytest.mark.parametrize("name", methods())
def test_a_copy_on_disk_follows_the_server(name: str, tmp_path: Path) -> None:
    """Bit for bit, with nodes that are away for rounds; nobody needs more than he was sent."""
    usual, found = strategy(**settings(name)), strategy(**settings(name))
    expected = runs.train(usual, 3, rounds=ROUNDS)
    grid = Nodes(folders(tmp_path))
    reports = run(grid, found)
    equal(found.effective_weights(), usual.effective_weights())
    assert [r.download_bytes for r in reports] == [r.download_bytes for r in expected]
    assert [r.metrics for r in reports] == [r.metrics for r in expected]
    assert not grid.lacks and all(update.base for update in grid.updates)
    if name == "fed_rac_lora":
        assert max(len(update.steps) for update in grid.updates) > 1
        assert not any(update.weights for update in grid.updates if update.steps)


@pytest.mark.parametrize("name", ["fed_rac_lora", "fed_cola", "fedavg_lora", "flora"])
def test_a_node_that_keeps_nothing_goes_on_from_what_it_can_build(name: str) -> None:
    usual, found = strategy(**settings(name)), strategy(**settings(name))
    expected = runs.train(usual, 3, rounds=ROUNDS)
    grid = Nodes(["", "", ""])
    reports = run(grid, found)
    assert [r.download_bytes for r in reports] == [r.download_bytes for r in expected]
    equal(found.effective_weights(), usual.effective_weights())
    assert not grid.lacks and len({update.base for update in grid.updates}) == 1


def test_a_node_that_can_build_nothing_is_sent_everything() -> None:
    """Pre-trained weights, and no place to keep them."""
    found, other = strategy(**settings()), start(workload(seed=9))
    grid = Nodes(["", "", ""])
    found.start(grid, other, 3)
    assert not grid.lacks
    assert all(set(update.weights) == set(other) and not update.steps for update in grid.updates)


def lose(path: Path) -> None:
    for file in path.rglob("*.safetensors"):
        file.unlink()


def spoil(path: Path) -> None:
    for file in path.rglob("*.safetensors"):
        data = file.read_bytes()
        file.write_bytes(data[:-8] + b"\x01" * 8)


def truncate(path: Path) -> None:
    for file in path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize("harm", [lose, spoil, truncate])
def test_a_copy_that_is_lost_or_damaged_is_sent_again_in_the_same_round(harm: Any, tmp_path: Path) -> None:
    work = {**settings(), "server": ServerSpec(runs.CLIENTS)}
    usual, found = strategy(**work), strategy(**work)
    expected = runs.train(usual, 3, rounds=ROUNDS)
    grid = Accident(folders(tmp_path), lambda: harm(tmp_path))
    reports = run(grid, found)
    equal(found.effective_weights(), usual.effective_weights())
    assert grid.lacks == ["missing"] * 3 and not any(report.refused for report in reports)
    # Simulated clients are not charged for their host's disk.
    assert [r.download_bytes for r in reports] == [r.download_bytes for r in expected]


def test_steps_that_lead_elsewhere_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine whose sums round differently: whole weights from then on, and no second question."""
    work = {**settings(), "server": ServerSpec(runs.CLIENTS)}
    usual, found = strategy(**work), strategy(**work)
    runs.train(usual, 3, rounds=ROUNDS)
    apply = state_log.apply

    def other(update: Update, held: ServerState | None, advance: Any) -> ServerState:
        after = apply(update, held, advance)
        if not update.steps:
            return after
        name = next(iter(after.weights))
        return ServerState(
            after.round, {**after.weights, name: torch.nextafter(after.weights[name], torch.ones(()).double())}, {}
        )

    monkeypatch.setattr(node_state, "apply", other)
    grid = Nodes(folders(tmp_path))
    assert not any(report.refused for report in run(grid, found))
    equal(found.effective_weights(), usual.effective_weights())
    assert grid.lacks == ["differs"] * 3


def test_a_full_disk_costs_bytes_and_no_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual, found = strategy(**settings()), strategy(**settings())
    runs.train(usual, 3, rounds=ROUNDS)

    def full(tensors: object, place: Path, about: object) -> None:
        place.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(place))

    monkeypatch.setattr(node_state, "save_file", full)
    grid = Nodes(folders(tmp_path))
    assert not any(report.refused for report in run(grid, found))
    equal(found.effective_weights(), usual.effective_weights())
    assert not grid.lacks and not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("is not kept in" in m and "No space left on device" in m for m in caplog.messages)


def test_a_server_that_was_started_again_knows_what_nodes_hold(tmp_path: Path) -> None:
    usual, first, second = (strategy(**settings()) for _ in range(3))
    runs.train(usual, 3, rounds=ROUNDS)
    run(Nodes(folders(tmp_path)), first, 3)
    grid = Nodes(folders(tmp_path))
    run(grid, second, ROUNDS, state=first.state)
    equal(second.effective_weights(), usual.effective_weights())
    assert not grid.lacks and all(update.base for update in grid.updates)


class Workers(Nodes):
    """Every message goes to any of some processes that stay, as in Flower's simulation."""

    def __init__(self, nodes: int, processes: int, moments: random.Random) -> None:
        super().__init__(["memory"] * nodes)
        for context in self._contexts.values():
            del context.node_config["state"]
        self.moments = moments
        self.remembered: list[Any] = [None] * processes

    def _process(self) -> Iterator[None]:
        process = self.moments.randrange(len(self.remembered))
        keep, node_state._latest = node_state._latest, self.remembered[process]
        yield
        self.remembered[process], node_state._latest = node_state._latest, keep


@pytest.mark.parametrize("processes", [1, 3])
def test_a_simulation_starts_from_what_its_processes_have(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """A message does not grow with the rounds, whichever process it comes to."""
    monkeypatch.setattr(catch_up, "stays", lambda: True)
    work = {**settings(), "server": ServerSpec(runs.CLIENTS)}
    wide = workload(model={"_target_": "fedrac.models.mlp", "inputs": 4, "hidden": [40], "outputs": 3})
    usual, found = strategy(wide, **work), strategy(wide, **work)
    runs.train(usual, 2, rounds=60)
    grid = Workers(2, processes, random.Random(1))
    reports = run(grid, found, 60)
    equal(found.effective_weights(), usual.effective_weights())
    assert not any(report.refused for report in reports)
    late = grid.updates[len(grid.updates) // 2 :]
    assert np.mean([len(update.steps) for update in late]) < 2 * processes
    assert sum(bool(update.weights) for update in late) < len(late) // 5  # two processes in turn that have little
    assert bool(grid.lacks) == (processes > 1)


# --- the parts ------------------------------------------------------------------------------------------------------


def state(value: float, round_: int = 0) -> ServerState:
    weights = {"w": torch.full((4, 4), value), "frozen": torch.ones(3), "count": torch.tensor(7)}
    return ServerState(round_, weights, {})


def add(before: ServerState, step: Step) -> ServerState:
    return ServerState(before.round + 1, {**before.weights, "w": before.weights["w"] + step.eta * step.means.sum()}, {})


def grown(count: int, numbers: int = 3) -> tuple[StateLog, list[ServerState]]:
    """A chain of so many steps of ``numbers`` numbers, and its states."""
    states = [state(0.0)]
    found = StateLog(states[0])
    for number in range(1, count + 1):
        step = Step(number, 1.0, torch.full((numbers,), float(number)))
        states.append(ServerState(number, add(states[-1], step).weights, {}))
        found.add(states[-1], step)
    return found, states


def size(update: Update) -> int:
    return sum(step.means.nbytes for step in update.steps) + sum(
        value.nbytes for part in update.tensors.values() for value in part.values()
    )


@pytest.mark.parametrize("behind", range(9))
def test_the_shorter_way_is_taken_and_leads_to_the_tip(behind: int) -> None:
    """Steps of 3 numbers, or the 16 that change; the frozen ones are never sent to who has them."""
    found, states = grown(8)
    base = state_digest.take(states[8 - behind]).digest
    update = found.update_from(base)
    assert found.size_from(base) == size(update) == 4 * min(3 * behind, 16)
    assert [step.round for step in update.steps] == (list(range(9 - behind, 9)) if behind < 6 else [])
    after = state_log.apply(update, states[8 - behind], add)
    assert state_digest.take(after).digest == found.tip.digest == update.digest
    assert found.size_from(base, replay=False) == size(found.update_from(base, replay=False))
    assert found.size_from(base, replay=False) == (4 * 16 if behind else 0)


def test_who_holds_a_later_state_than_the_base_makes_the_rest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found, states = grown(5)
    monkeypatch.setattr(node_state, "_latest", None)
    made: list[int] = []

    def counted(before: ServerState, step: Step) -> ServerState:
        made.append(step.round)
        return add(before, step)

    node = NodeState(Initial(lambda: state(0.0).weights), None, True, "1")
    node.follow(StateLog(states[3]).update_from(""), counted)
    update = found.update_from(state_digest.take(states[1]).digest)
    assert [step.round for step in update.steps] == [2, 3, 4, 5]
    equal(dict(node.follow(update, counted)[0].weights), dict(states[5].weights))
    assert made == [4, 5]


def test_a_process_that_was_behind_is_served_the_next_time() -> None:
    """It said what it had; what was sent for that came to another process of the node."""
    found = [state(float(value), value) for value in range(4)]
    digests = [state_digest.take(each).digest for each in found]
    link = Downloads(found[0].weights, found[0], replays=True)
    node, own = hosted("split", digests[0]), hosted("", digests[0])
    for number, which in ((1, node), (2, own)):
        link.move(found[number], Step(number, 1.0, torch.ones(1)))
        link.landed(7, [0], kept=True)
        assert decode_update(link.content(7, which)).base == digests[number]
        link.more(7, which, "missing", [digests[0]])
        link.landed(7, [0], kept=True)
        assert decode_update(link.content(7, which)).base == (digests[0] if which is node else digests[number])


def test_who_holds_nothing_is_sent_everything() -> None:
    found, states = grown(2)
    update = found.update_from(found.newest(["unknown", ""]))
    assert update.base == "" and not update.steps
    equal(dict(state_log.apply(update, None, add).weights), dict(states[2].weights))


def test_the_newest_of_what_is_offered_is_the_base() -> None:
    found, states = grown(5)
    digests = [state_digest.take(s).digest for s in states]
    assert found.newest([digests[1], "unknown", digests[4], digests[2]]) == digests[4]


def test_history_is_bounded() -> None:
    """Steps that together are as long as the weights are never sent, and not kept."""
    found, _ = grown(500)
    assert len(found._steps) * 3 * 4 < 4 * 16 + 4 * 3 + 8
    large, _ = grown(3, numbers=100)
    assert not large._steps


def test_without_replay_only_tensors_are_sent() -> None:
    found = StateLog(state(0.0), replays=False)
    found.add(state(1.0), Step(1, 1.0, torch.ones(1)))
    update = found.update_from(state_digest.take(state(0.0)).digest)
    assert not update.steps and set(update.weights) == {"w"}


def test_a_digest_tells_states_apart() -> None:
    digests = {state_digest.take(s).digest for s in (
        state(0.0), state(1e-45), state(-0.0),
        ServerState(0, {k: v.reshape(-1) for k, v in state(0.0).weights.items()}, {}),
        ServerState(0, {k: v.double() for k, v in state(0.0).weights.items()}, {}),
        ServerState(0, {k + "x": v for k, v in state(0.0).weights.items()}, {}),
        ServerState(0, {}, state(0.0).weights),
    )}  # fmt: skip
    assert len(digests) == 7
    assert state_digest.take(state(0.0, round_=5)).digest in digests
    one, two = state_digest.take(state(0.0)), state(0.0)
    changed = ServerState(1, {**one.state.weights, "w": two.weights["w"] + 1}, {})
    assert state_digest.take(changed, one).digest == state_digest.take(changed).digest != one.digest


def kept(path: Path, run: str = "1") -> NodeState:
    return NodeState(Initial(lambda: state(0.0).weights), path, False, run)


def test_a_folder_keeps_the_newest_state_of_the_newest_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(node_state, "_latest", None)
    for run in range(6):
        for value in (1.0, 2.0 + run):
            whole = StateLog(state(value)).update_from("")
            assert kept(tmp_path, str(run)).follow(whole, add)[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{run}.safetensors" for run in (3, 4, 5)]
    monkeypatch.setattr(node_state, "_latest", None)
    initial = state_digest.take(state(0.0)).digest
    for run in (3, 4, 5):
        assert kept(tmp_path, str(run)).offers() == [state_digest.take(state(2.0 + run)).digest, initial]


@pytest.mark.parametrize("stays", [False, True])
def test_a_process_that_stays_seldom_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stays: bool) -> None:
    """When it ends, its file is some rounds behind at most."""
    monkeypatch.setattr(node_state, "_latest", None)
    found = StateLog(state(0.0))
    node = NodeState(Initial(lambda: state(0.0).weights), tmp_path, stays, "1")
    written = []
    for number in range(1, 26):
        found.add(state(float(number), number), Step(number, 1.0, torch.ones(1)))
        assert node.follow(found.update_from(""), add)[1]
        written.append((tmp_path / "1.safetensors").read_bytes())
    assert len(set(written)) == (3 if stays else 25)
    monkeypatch.setattr(node_state, "_latest", None)
    behind = [state_digest.take(state(float(number))).digest for number in range(25 - node_state.ROUNDS, 26)]
    assert node.offers()[0] in behind


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("stays", [False, True], ids=["new process", "same process"])
def test_a_run_gets_nothing_of_another_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_memory: bool, stays: bool
) -> None:
    """Neither by asking what is there nor by naming a digest that it has learnt elsewhere."""
    secret = state(7.0)
    digest = state_digest.take(secret).digest
    monkeypatch.setattr(node_state, "_latest", None)
    node = NodeState(Initial(lambda: state(0.0).weights), tmp_path, in_memory, "a")
    node.follow(StateLog(secret).update_from(""), add)
    if not stays:
        monkeypatch.setattr(node_state, "_latest", None)
    other = NodeState(Initial(lambda: state(0.0).weights), tmp_path, in_memory, "b")
    assert digest in node.offers() and digest not in other.offers()
    for update in (Update(1, digest, "", (), {}, {}), Update(1, "any", digest, (), {}, {})):
        with pytest.raises(CannotRebuild):
            other.follow(update, add)
    assert torch.equal(node.follow(Update(1, digest, "", (), {}, {}), add)[0].weights["w"], secret.weights["w"])


def test_a_base_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(node_state, "_latest", None)
    found, states = grown(4)
    with pytest.raises(CannotRebuild, match="missing"):
        kept(tmp_path).follow(found.update_from(state_digest.take(states[2]).digest), add)
    with pytest.raises(CannotRebuild, match="differs"):
        kept(tmp_path).follow(found.update_from(state_digest.take(states[0]).digest), lambda before, _: before)
    assert not list(tmp_path.iterdir())


def test_what_is_on_disk_is_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor is what comes whole: a model can be large, and each message may find a new process."""
    built: list[int] = []

    def node() -> NodeState:
        monkeypatch.setattr(node_state, "_latest", None)
        return NodeState(Initial(lambda: (built.append(1), state(0.0).weights)[1]), tmp_path)

    found, states = grown(3)
    first = StateLog(state(0.0))
    first.add(states[1], None)
    node().follow(first.update_from(state_digest.take(state(0.0)).digest), add)
    assert built == [1]
    for update in (found.update_from(state_digest.take(states[1]).digest), found.update_from("")):
        node().follow(update, add)
    assert built == [1]


def hosted(partition: str, initial: str = "") -> Hosted:
    return Hosted(np.arange(1), np.ones(1, np.int64), partition, initial)


def test_a_node_with_data_of_its_own_is_charged_for_its_messages() -> None:
    """What it kept counts, not what it was sent; a simulated client keeps what it was sent."""
    first, then = state(0.0), state(1.0, 1)
    link = Downloads(first.weights, first, replays=True)
    real, simulated = hosted("", state_digest.take(first).digest), hosted("split", state_digest.take(first).digest)
    assert link.count(1, real, [0]) == link.count(2, simulated, [1]) == 0
    for node in (1, 2):
        link.landed(node, [node - 1], kept=False)
    means = torch.ones(5)
    link.move(then, Step(1, 1.0, means))
    link.move(state(2.0, 2), Step(2, 1.0, means))
    assert link.count(1, real, [0]) == 2 * 5 * 4
    link.landed(1, [0], kept=True)
    link.landed(2, [1, 2], kept=False)
    link.move(state(3.0, 3), Step(3, 1.0, means))
    assert decode_update(link.content(1, real)).base == state_digest.take(state(2.0)).digest
    assert link.count(1, real, [0]) == 5 * 4
    assert link.count(2, simulated, [1, 2, 7]) == (5 + 5 + 15) * 4  # client 7 takes part for the first time
    whole, size = link.more(1, real, "missing", ())
    everything = sum(t.numel() * t.element_size() for t in first.weights.values())
    assert size == everything and decode_update(whole).base == ""
    assert link.count(1, real, [0]) == 3 * 5 * 4  # what it kept is forgotten; what it can build is not
    assert link.count(3, hosted(""), [0]) == everything
    link.more(1, real, "differs", ())
    assert link.count(1, real, [0]) == 16 * 4  # from now on, what has changed


def test_those_who_lack_the_same_share_a_message() -> None:
    first = state(0.0)
    link = Downloads(first.weights, first, replays=True)
    link.move(state(1.0, 1), Step(1, 1.0, torch.ones(2)))
    digest = state_digest.take(first).digest
    assert link.content(1, hosted("", digest)) is link.content(2, hosted("split", digest))
    assert link.content(1, hosted("")) is not link.content(1, hosted("", digest))


def large(value: float) -> ServerState:
    """Matrices that are large enough for files of their own, and a bias."""
    w, frozen = torch.full((1024, 512), value), torch.ones(1024, 512)
    return ServerState(0, {"w": w, "frozen": frozen, "bias": torch.zeros(3)}, {})


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped, as Linux tells")
def test_a_state_that_a_node_keeps_is_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its matrices have no memory of the process's own, and who has them can tell what has changed."""
    monkeypatch.setattr(node_state, "_latest", None)
    found, node = StateLog(large(0.0)), NodeState(Initial(lambda: large(0.0).weights), tmp_path, True, "1")

    def step(before: ServerState, step: Step) -> ServerState:
        w = node.room(before.weights["w"]).copy_(before.weights["w"] + step.means[0])
        return ServerState(before.round + 1, {**before.weights, "w": w}, {})

    frozen: list[torch.Tensor] = []
    for number in range(1, 13):  # the file is written twice
        before = found.tip.digest if number > 1 else ""
        found.add(step(found.tip.state, Step(number, 1.0, torch.ones(1))), Step(number, 1.0, torch.ones(1)))
        held, kept = node.follow(found.update_from(before), step)
        assert kept and bool((held.weights["w"] == float(number)).all())
        for name in ("w", "frozen"):
            assert _file_of(held.weights[name]).parent == tmp_path
        frozen.append(held.weights["frozen"])
        again, _ = node.follow(found.update_from(before), step)  # what a model has of them stays good
        assert all(again.weights[name] is value for name, value in held.weights.items())
    assert all(each is frozen[0] for each in frozen)
    assert [path.name for path in tmp_path.iterdir()] == ["1.safetensors"]


def _file_of(tensor: torch.Tensor) -> Path:
    """Whose pages the tensor's memory is."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5) if line.count(" ") > 4 else (*line.split(), "")
        first, last = (int(each, 16) for each in span.split("-"))
        if first <= tensor.data_ptr() < last:
            return Path(path)
    raise AssertionError("its memory is not mapped")


def test_a_matrix_for_which_the_disk_has_no_room_is_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    room = NodeState(Initial(lambda: {}), tmp_path).room(torch.zeros(1024, 512))
    assert room.shape == (1024, 512) and not list(tmp_path.iterdir())
