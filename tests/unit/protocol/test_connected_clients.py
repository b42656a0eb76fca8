"""Who is there: hosts that come and go, hosts that contradict one another, answers that make no sense."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import runs
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol.connected_clients import (
    ConnectedClients,
    Hosted,
    decode_hosted,
    decode_question,
    encode_hosted,
    encode_question,
)

SLEEP = "fedrac.protocol.connected_clients.time.sleep"


def hosted(clients: Iterable[int], digest: str = "same") -> Hosted:
    ids = np.array(list(clients), np.int64)
    return Hosted(ids, ids + 1, digest)


class Answers(InProcessGrid):
    """Nodes with given answers, by node id: what they host, an error, raw content, or None for silence."""

    def __init__(self, answers: dict[int, Hosted | Error | RecordDict | None]) -> None:
        super().__init__(ClientApp(), 1)
        self.answers, self.asked = answers, []

    def get_node_ids(self) -> list[int]:
        return list(self.answers)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            self.asked.append(message.metadata.dst_node_id)
            answer = self.answers[message.metadata.dst_node_id]
            if answer is not None:
                content = encode_hosted(answer) if isinstance(answer, Hosted) else answer
                replies.append(Message(content, reply_to=message))
        return replies[::-1]


def population(timeout: float = 5.0, separate: bool = False) -> ConnectedClients:
    changes = {"partition": {"scheme": "nodes"}} if separate else {}
    return ConnectedClients(runs.workload(**changes), timeout)


def asked(answers: dict[int, Any]) -> ConnectedClients:
    found = population()
    found.refresh(Answers(answers))
    return found


def test_clients_of_all_hosts() -> None:
    found = asked({30: hosted([1, 4]), 10: hosted([5, 0]), 20: hosted([]), 40: hosted([2])})
    assert found.clients.tolist() == [0, 1, 2, 4, 5]
    assert found.by_host([4, 0, 2, 1]) == {10: [0], 30: [1, 4], 40: [2]}
    assert list(found.by_host([4, 0, 2, 1])) == [10, 30, 40]


def test_clients_without_gaps_are_found_as_others_are() -> None:
    found = asked({30: hosted([4, 6]), 10: hosted([7, 3, 5])})
    assert found.by_host([6, 3, 7]) == {10: [3, 7], 30: [6]}
    assert list(found.examples_of([7, 4])) == [7, 4]


def test_each_host_is_asked_once() -> None:
    grid, found = Answers({1: hosted([0]), 2: hosted([1])}), population()
    for _ in range(3):
        found.refresh(grid)
    assert grid.asked == [1, 2]


def test_hosts_come_and_go() -> None:
    grid, found = Answers({1: hosted([0, 2]), 2: hosted([1, 3])}), population()
    found.refresh(grid)
    del grid.answers[1]
    found.refresh(grid)
    assert found.clients.tolist() == [1, 3]
    assert found.by_host([3]) == {2: [3]}
    grid.answers[7] = hosted([2, 0])  # the same place under a new id
    found.refresh(grid)
    assert found.by_host([0, 1, 2, 3]) == {7: [0, 2], 2: [1, 3]}
    assert grid.asked == [1, 2, 7]
    grid.answers[1] = hosted([4])  # back with other clients: what it once said does not count
    found.refresh(grid)
    assert found.by_host([4]) == {1: [4]}


def test_two_nodes_in_the_same_place() -> None:
    with pytest.raises(RuntimeError, match=r"client 3 is served by nodes 5 and 9: give every node a partition-id"):
        asked({5: hosted([1, 3]), 9: hosted([0, 3])})
    with pytest.raises(RuntimeError, match="client 0 is served by nodes 5 and 5"):
        asked({5: hosted([0, 0])})


def test_nodes_that_split_the_data_differently() -> None:
    with pytest.raises(RuntimeError, match="split the data differently"):
        asked({1: hosted([0]), 2: hosted([1], "other")})


LATE = {
    "client 0 is served by nodes 1 and 2": hosted([0]),
    "the nodes split the data differently": hosted([9], "other"),
    "node 2 cannot serve: no data": Error(1, "no data"),
    "node 2 did not say which clients it serves within 5 s": None,
}


@pytest.mark.parametrize("reason, other", LATE.items(), ids=LATE)
def test_a_late_node_that_cannot_serve_is_left_out(
    reason: str, other: Hosted | Error | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a warning, once; the run goes on. Asked again when it is back, or after a while."""
    now = [1000.0]
    monkeypatch.setattr("fedrac.protocol.connected_clients.time.monotonic", lambda: now[0])
    grid, found = Answers({1: hosted([0])}), population()
    found.refresh(grid)
    grid.answers |= {2: other, 3: hosted([4])}
    for _ in range(3):
        found.refresh(grid)
        assert found.clients.tolist() == [0, 4] and found.by_host([0, 4]) == {1: [0], 3: [4]}
    assert grid.asked == [1, 2, 3]
    assert [m for m in caplog.messages if reason in m and m.startswith("node 2 is left out: ")]
    now[0] += 601
    found.refresh(grid)
    assert grid.asked == [1, 2, 3, 2]
    del grid.answers[2]
    found.refresh(grid)
    grid.answers[2] = hosted([7])
    found.refresh(grid)
    assert found.clients.tolist() == [0, 4, 7]


def test_late_nodes_are_asked_together() -> None:
    """However many of them are silent, the others wait once."""
    waits: list[list[int]] = []

    class Counting(Answers):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            known = list(messages)
            waits.append([message.metadata.dst_node_id for message in known])
            return super().send_and_receive(known, timeout=timeout)

    grid, found = Counting({1: hosted([0])}), population()
    found.refresh(grid)
    grid.answers |= {2: None, 3: hosted([4]), 4: None, 5: hosted([0])}
    found.refresh(grid)
    assert waits == [[1], [2, 3, 4, 5]]
    assert found.clients.tolist() == [0, 4]
    found.refresh(grid)
    assert waits == [[1], [2, 3, 4, 5]]


def test_a_run_outlives_the_absence_of_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, found = Answers({1: hosted([0])}), population()
    found.refresh(grid)
    del grid.answers[1]
    monkeypatch.setattr(
        SLEEP,
        lambda _: grid.answers.update({2: hosted([0]), 3: Error(1, "no")}),
    )
    found.refresh(grid)
    assert found.by_host([0]) == {2: [0]}


def test_clients_of_separate_nodes_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only there: of common data, the nodes that are connected serve all clients."""
    grid, found = Answers({1: hosted([0], "")}), population(separate=True)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            grid.answers[2] = hosted([5], "")

    monkeypatch.setattr(SLEEP, nap)
    found.refresh(grid, wanted=2)
    assert found.clients.tolist() == [0, 5] and len(naps) == 3
    grid.answers = {1: hosted([0], "split")}
    common = population()
    common.refresh(grid, wanted=2)
    assert common.clients.tolist() == [0] and len(naps) == 3


def test_waiting_ends() -> None:
    found = population(0.0, separate=True)
    found.refresh(Answers({1: hosted([0], "")}), wanted=2)
    assert found.clients.tolist() == [0]


def test_a_node_that_cannot_serve() -> None:
    with pytest.raises(RuntimeError, match=r"^node 4 cannot serve: no such file$"):
        asked({4: Error(1, "no such file")})
    with pytest.raises(RuntimeError, match=r"^node 4 cannot serve: ValueError: why$"):
        asked({4: RecordDict({"error": ConfigRecord({"reason": "ValueError: why"})})})


def test_a_node_that_died_just_now_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed until the SuperLink has missed it; it ends no run, and is asked again when it is back."""
    gone = Error(ErrorCode.NODE_UNAVAILABLE, "no heartbeat")
    grid, found = Answers({1: hosted([0], ""), 2: gone}), population(separate=True)
    monkeypatch.setattr(SLEEP, lambda _: grid.answers.update({2: hosted([1], "")}))
    found.refresh(grid)
    assert found.clients.tolist() == [0]
    found.refresh(grid, wanted=2)
    assert found.clients.tolist() == [0, 1] and grid.asked == [1, 2, 2, 2]


def test_silence() -> None:
    with pytest.raises(RuntimeError, match="node 2 did not say which clients it serves within 5 s"):
        asked({1: hosted([0]), 2: None})


def test_nobody() -> None:
    with pytest.raises(RuntimeError, match="no node connected within 0 s: start a SuperNode"):
        population(0.0).refresh(Answers({}))


def test_the_first_node_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, found = Answers({}), population()
    monkeypatch.setattr(SLEEP, lambda _: grid.answers.update({3: hosted([0])}))
    found.refresh(grid)
    assert found.clients.tolist() == [0]


def _answer(clients: Any = (0, 1), examples: Any = (3, 4), **changes: Any) -> RecordDict:
    arrays = {"clients": np.array(clients), "examples": np.array(examples)}
    content = {
        "hosted": ArrayRecord({k: Array(v) for k, v in arrays.items()}),
        "about": ConfigRecord({"partition": ""}),
    }
    return RecordDict({name: record for name, record in {**content, **changes}.items() if record is not None})


MALFORMED = {
    "lengths": _answer(examples=[3]),
    "floats": _answer([0.0, 1.0]),
    "small integers": _answer(np.array([0, 1], np.int32)),
    "matrix": _answer([[0, 1]], [[3, 4]]),
    "single number": _answer(0, 3),
    "negative id": _answer([-1, 1]),
    "no examples": _answer(examples=[3, 0]),
    "no bytes": _answer(hosted=ArrayRecord({k: Array("int64", (2,), "numpy.ndarray", b"") for k in ("clients",)})),
    "no arrays": _answer(hosted=ArrayRecord()),
    "no record": _answer(hosted=None),
    "no digest": _answer(about=ConfigRecord()),
    "nothing": RecordDict(),
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_answers_that_make_no_sense(answer: RecordDict) -> None:
    with pytest.raises(RuntimeError, match=r"^node 8 cannot serve: "):
        asked({1: hosted([5]), 8: answer})


def test_a_node_that_was_not_asked_does_not_count() -> None:
    class Meddler(Answers):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            replies = super().send_and_receive(messages, timeout=timeout)
            replies.append(Message(encode_hosted(hosted([7])), reply_to=Message(RecordDict(), 99, "query")))
            return replies

    found = population()
    found.refresh(Meddler({1: hosted([0])}))
    assert found.clients.tolist() == [0]


def test_the_question_carries_the_workload() -> None:
    assert decode_question(encode_question(runs.workload(seed=2**60))) == runs.workload(seed=2**60)


def test_an_answer_comes_back_as_it_was_sent() -> None:
    question = Message(RecordDict(), 1, "query")
    got = decode_hosted(Message(encode_hosted(hosted([4, 2], "d")), reply_to=question))
    assert (got.clients.tolist(), got.examples.tolist(), got.partition) == ([4, 2], [5, 3], "d")


def test_real_hosts() -> None:
    """Two nodes with the same partition-id, and two that were given other data."""

    def app_of(change: dict[str, Any]) -> InProcessGrid:
        grid = runs.grid(2)
        context = grid._contexts[2]
        grid._contexts[2] = Context(1, 2, {**context.node_config, **change}, RecordDict(), {})
        return grid

    with pytest.raises(RuntimeError, match="client 0 is served by nodes 1 and 2"):
        population().refresh(app_of({"partition-id": 0}))
    with pytest.raises(RuntimeError, match="node 2 cannot serve: ValueError: node-config partition-id=2"):
        population().refresh(app_of({"partition-id": 2}))
    found = population()
    found.refresh(runs.grid(4))
    assert found.clients.tolist() == list(range(runs.CLIENTS))


def test_a_question_that_the_superlink_has_lost_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so at once and in its own name, when a node went away with the question, which may be back by now."""
    superlink = 1

    class Losing(Answers):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            sent = list(messages)
            kept = [m for m in sent if m.metadata.dst_node_id != 5 or 5 in self.asked]
            replies = super().send_and_receive(sent, timeout=timeout)
            lost = Message(RecordDict(), superlink, "query")
            error = Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, "not found"), reply_to=lost)
            return [r for r in replies if r.metadata.src_node_id in [m.metadata.dst_node_id for m in kept]] + [error]

    grid, found = Losing({4: hosted([0]), 5: hosted([1])}), population()
    monkeypatch.setattr(SLEEP, lambda _: None)
    found.refresh(grid)
    assert found.clients.tolist() == [0, 1] and grid.asked == [4, 5, 5]


class Deaf(Answers):
    """Waits as long as it is told to; a node answers only its second question."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = super().send_and_receive(messages, timeout=timeout)
        heard = [reply for reply in replies if self.asked.count(reply.metadata.src_node_id) > 1]
        if len(heard) < len(replies):
            self.now += timeout or 0.0
        return heard

    now = 0.0


def test_a_node_that_lost_the_question_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was killed with the question, and came back before the SuperLink missed it."""
    grid, found = Deaf({1: hosted([0]), 2: hosted([1])}), population(600.0)
    monkeypatch.setattr("fedrac.protocol.connected_clients.time.monotonic", lambda: grid.now)
    found.refresh(grid)
    assert found.clients.tolist() == [0, 1] and grid.asked == [1, 2, 1, 2]
    assert 0.0 < grid.now < 600.0
