"""Replies whose bytes or fields are damaged or made up: refused, never unpickled, never half accepted."""

import copy
import io
import math
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
import runs
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrac.algorithm.server import ServerSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.replies import Refusal, Reply, decode_reply
from fedrac.protocol.round_report import CohortFailure

ROUND = 1
KEY = "factors"
RECORDS = {"reply": ("round", "clients", "failed", "reasons"), "metrics": ("examples", "losses")}


@pytest.fixture(scope="module")
def strategy() -> FedRacLora:
    """A round counts if any client answers well."""
    return runs.strategy(server=ServerSpec(cohort_size=5, min_fraction=0.1))


@pytest.fixture(scope="module")
def messages(strategy: FedRacLora) -> list[Message]:
    """What two hosts answer in round 1; the first serves several clients of the cohort."""
    grid = runs.grid(2)
    found = list(grid.send_and_receive(strategy.configure_train(ROUND, runs.start(), ConfigRecord(), grid)))
    assert len(runs.clients_of(found[0])) > 1
    return found


def decode(strategy: FedRacLora, message: Message, asked: list[int]) -> tuple[Reply, list[Refusal]]:
    """As the strategy does: it knows how many examples each client has."""
    announced = strategy.connected.examples_of(asked)
    return decode_reply(message, ROUND, asked, strategy.shapes_at(ROUND), torch.float64, announced)


class Bomb:
    """Sets a mark where it is unpickled."""

    went_off = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "went_off", True)


def npy(array: np.ndarray[Any, Any], pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def npz(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", npy(array))
    return file.getvalue()


GOOD = np.ones((3, 28))
FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "text": b"numbers",
    "truncated": npy(GOOD)[:-1],
    "header cut off": npy(GOOD)[:20],
    "magic only": npy(GOOD)[:6],
    "more than there is": npy(GOOD).replace(b"(3, 28)", b"(3, 29)"),
    "negative": npy(GOOD).replace(b"(3, 28)", b"(3,-28)"),
    "archive": npz(GOOD),
    "pickle": pickle.dumps(Bomb()),
    "objects": npy(np.array([Bomb()] * 3, dtype=object), pickled=True),
    "text array": npy(np.full((3, 28), "1")),
    "other byte order": npy(GOOD.astype(">f8")),
    "structured": npy(np.zeros((3, 28), [("a", "f8")])),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_bytes_that_are_no_array_of_numbers(strategy: FedRacLora, messages: list[Message], data: bytes) -> None:
    answer, asked = copy.deepcopy(messages[0]), runs.clients_of(messages[0])
    answer.content.array_records["factors"][KEY] = Array("float64", GOOD.shape, "numpy.ndarray", data)
    reply, refusals = decode(strategy, answer, asked)
    assert not reply.clients and [refusal.clients for refusal in refusals] == [asked]
    assert refusals[0].reason.startswith(f"array {KEY!r} cannot be read: ")
    assert not Bomb.went_off


def test_the_bomb_would_go_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bomb, "went_off", False)
    for data in (FOREIGN["pickle"], FOREIGN["objects"].partition(b"\n")[2]):
        Bomb.went_off = False
        pickle.loads(data)
        assert Bomb.went_off


def test_what_a_record_says_of_an_array_does_not_count(strategy: FedRacLora, messages: list[Message]) -> None:
    answer, asked = copy.deepcopy(messages[0]), runs.clients_of(messages[0])
    record = answer.content.array_records["factors"]
    true, expected = record[KEY], decode(strategy, messages[0], asked)[0]
    record[KEY] = Array("nonsense", (-1, 10**30), true.stype, true.data)
    reply, refusals = decode(strategy, answer, asked)
    assert not refusals
    runs.equal(dict(reply.factors), dict(expected.factors))
    record[KEY] = Array(true.dtype, true.shape, "torch.pickle", true.data)
    assert decode(strategy, answer, asked)[1][0].reason.startswith(f"array {KEY!r} cannot be read: ")


scalars = st.one_of(
    st.integers(-2, 8),
    st.just(10**400),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.none(),
)
junk = st.one_of(scalars, st.lists(scalars, max_size=4), st.permutations(range(4)), st.permutations([0.5, 1.5, 2.5]))
fields = st.sampled_from([(record, field) for record, fields in RECORDS.items() for field in fields])
names = st.sampled_from([*RECORDS, "factors", "error"])


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut off, or with one byte changed (often in the header), or foreign."""
    place = draw(st.integers(0, 127) | st.integers(0, 1023)) % max(len(data), 1)
    changed = data[:place] + bytes([draw(st.integers(0, 255) | st.sampled_from(b"0123456789(),"))]) + data[place + 1 :]
    return draw(st.sampled_from([data[:place], changed, changed, *FOREIGN.values()]))


def mutate(content: RecordDict, draw: st.DrawFn) -> None:
    """One change to a reply. Flower's own checks of types are left out."""
    kind = draw(st.sampled_from(["set", "delete", "rename", "record", "array", "array", "name"]))
    record, field = draw(fields)
    values = content[record].__dict__["_data"] if record in content else {}
    factors = content["factors"].__dict__["_data"] if "factors" in content else {}
    if kind == "set":
        values[field] = draw(junk)
    elif kind == "delete":
        values.pop(field, None)
    elif kind == "rename":
        content.pop(draw(names), None)
    elif kind == "record":
        content[draw(names)] = draw(st.sampled_from([ArrayRecord(), ConfigRecord({"reason": "?"})]))
    elif kind == "array" and isinstance(old := factors.get(KEY), Array):
        shape, dtype = (
            tuple(draw(st.lists(st.integers(-1, 4), max_size=3))),
            draw(st.sampled_from(["float64", "(", "O"])),
        )
        factors[KEY] = Array(dtype, shape, old.stype, draw(damaged(old.data)))
    elif kind == "name" and factors:
        factors[draw(st.sampled_from(["", "layers.1.bias:D", "x"]))] = next(iter(factors.values()))


@st.composite
def mutations(draw: st.DrawFn, content: RecordDict) -> RecordDict:
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        mutate(content, draw)
    return content


def test_no_reply_is_half_accepted(strategy: FedRacLora, messages: list[Message]) -> None:
    """At least 500 of the made-up replies are refused, in whole or for some of their clients; the rest are harmless."""
    refused = 0

    @given(st.data())
    @settings(max_examples=800, deadline=None)
    def try_one(data: st.DataObject) -> None:
        nonlocal refused
        refused += _made_up(strategy, messages, data.draw(mutations(messages[0].content)))

    try_one()
    assert refused >= 500


def _made_up(strategy: FedRacLora, messages: list[Message], content: RecordDict) -> bool:
    """Whether something of a reply was refused; whatever is accepted is whole."""
    answer, asked = copy.deepcopy(messages[0]), runs.clients_of(messages[0])
    answer.content = content
    reply, refusals = decode(strategy, answer, asked)
    refused = [client for refusal in refusals for client in refusal.clients]
    assert sorted([*reply.clients, *refused]) == sorted(asked)
    assert all(type(count) is int and count >= 1 for count in reply.examples)
    assert all(map(math.isfinite, reply.losses))
    assert len(reply.clients) == len(reply.examples) == len(reply.losses)
    assert {key: tuple(v.shape[1:]) for key, v in reply.factors.items()} == strategy.shapes_at(ROUND)
    for value in reply.factors.values():
        assert len(value) == len(reply.clients) and value.dtype == torch.float64 and bool(value.isfinite().all())
    assert not Bomb.went_off
    _server_takes(strategy, answer, messages[1], reply)
    return bool(refused)


def _server_takes(strategy: FedRacLora, answer: Message, other: Message, reply: Reply) -> None:
    """The whole strategy: damaged answers alone stop the run and change nothing, or are left out."""
    grid = runs.grid(2)
    before = strategy.state
    list(strategy.configure_train(ROUND, runs.start(), ConfigRecord(), grid))
    before = strategy.state
    if not reply.clients:
        with pytest.raises(CohortFailure):
            strategy.aggregate_train(ROUND, [answer])
        assert strategy.state is before
    try:
        _, metrics = strategy.aggregate_train(ROUND, [answer, other])
    except CohortFailure as error:
        assert "too large" in str(error) and strategy.state is before
        assert max(float(value.abs().max()) for value in reply.factors.values()) > 1e100
        return
    assert metrics is not None and metrics["clients"] == len(reply.clients) + len(runs.clients_of(other))
    assert all(bool(value.isfinite().all()) for value in strategy.effective_weights().values())
    strategy.state = before
