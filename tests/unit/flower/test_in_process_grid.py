"""The in-process grid keeps Flower's contract of a Grid."""

from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid


def app() -> ClientApp:
    """Echoes the place of its node, counts its own calls in the node's state, and fails when told to."""
    found = ClientApp()

    @found.train()
    def train(message: Message, context: Context) -> Message:
        if "fail" in message.content:
            raise KeyError("told to")
        calls = int(context.state["calls"]["n"]) + 1 if "calls" in context.state else 1
        context.state["calls"] = ConfigRecord({"n": calls})
        config: dict[str, Any] = dict(context.node_config)
        return Message(RecordDict({"place": ConfigRecord(config), "calls": context.state["calls"]}), reply_to=message)

    return found


def message(node: int, **content: ConfigRecord) -> Message:
    return Message(RecordDict({**content}), node, "train", group_id="g")


def test_every_node_has_a_place_of_its_own() -> None:
    grid = InProcessGrid(app(), 3)
    assert list(grid.get_node_ids()) == [1, 2, 3]
    replies = list(grid.send_and_receive([message(node) for node in (3, 1, 2)]))
    for reply, node in zip(replies, (3, 1, 2), strict=True):
        own = {"partition-id": node - 1, "num-partitions": 3, "state": "memory", "policy": "open"}
        assert dict(reply.content["place"]) == own
        assert (reply.metadata.src_node_id, reply.metadata.message_type, reply.metadata.group_id) == (
            node,
            "train",
            "g",
        )


def test_replies_are_pulled_once_and_by_message() -> None:
    grid = InProcessGrid(app(), 2)
    first, second = grid.push_messages([message(1), message(2)])
    assert first != second
    (reply,) = grid.pull_messages([second])
    assert reply.metadata.reply_to_message_id == second and reply.metadata.src_node_id == 2
    assert not list(grid.pull_messages([second, "unknown"]))
    assert [r.metadata.src_node_id for r in grid.pull_messages([first])] == [1]


def test_a_node_keeps_its_state() -> None:
    grid = InProcessGrid(app(), 2)
    calls = [next(iter(grid.send_and_receive([message(node)]))).content["calls"]["n"] for node in (1, 1, 2)]
    assert calls == [1, 2, 1]


def test_what_a_client_raises_is_an_error_reply() -> None:
    grid = InProcessGrid(app(), 2)
    bad, good = grid.send_and_receive([message(1, fail=ConfigRecord()), message(2)])
    assert bad.has_error() and "told to" in str(bad.error.reason) and bad.metadata.src_node_id == 1
    assert not good.has_error()


def test_a_message_type_that_the_app_does_not_know() -> None:
    grid = InProcessGrid(app(), 1)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "query")])
    assert reply.has_error()


def test_messages_made_by_the_grid() -> None:
    grid = InProcessGrid(app(), 1)
    made = grid.create_message(RecordDict(), "train", 1, "group", ttl=5.0)
    assert (made.metadata.dst_node_id, made.metadata.message_type, made.metadata.group_id) == (1, "train", "group")
    assert made.metadata.ttl == 5.0
    assert not next(iter(grid.send_and_receive([made]))).has_error()


def test_the_run_can_be_set() -> None:
    grid = InProcessGrid(app(), 1)
    grid.set_run(Run.create_empty(7))
    assert grid.run.run_id == 7


def test_no_nodes() -> None:
    with pytest.raises(ValueError, match=r"runtime.hosts=0 must be at least 1"):
        InProcessGrid(app(), 0)


def test_the_identity_that_flower_gave_this_process_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ServerApp that pre-trains in process goes on sending messages in its own name."""
    for name, value in (("_run_id", 77), ("_node_id", 5), ("_task_id", 9)):
        monkeypatch.setattr(TaskIdentity, name, value)
    InProcessGrid(app(), 1)
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (77, 5, 9)


def test_a_node_that_is_asked_nothing_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """As `fedrac.protocol.resending` asks, to see who lives: that is no fault of the node."""
    grid = InProcessGrid(client_app.app)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "query")])
    assert not reply.has_error() and not reply.content and not caplog.records
