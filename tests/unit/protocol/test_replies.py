"""Nothing that a host answers is believed: each fault is refused with the client and the field."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import runs
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from fedrac.protocol.messages import to_record
from fedrac.protocol.replies import (
    Refusal,
    Reply,
    decode_reply,
    encode_lack,
    encode_reply,
    join,
    keeps,
    lack_of,
    offers_of,
)

ASKED = [7, 2, 5]
ROUND = 3
SHAPES = {"w:A": (2, 4), "v:D": (3,)}


def factors(count: int = 3) -> dict[str, Tensor]:
    """Client in place c has the numbers c + 1."""
    return {key: torch.ones(count, *shape) * (1 + torch.arange(count)).view(-1, *[1] * len(shape)) for key, shape in
            SHAPES.items()}  # fmt: skip


def content(
    clients: Sequence[int] = ASKED,
    examples: Sequence[Any] = (4, 1, 9),
    losses: Sequence[Any] = (0.5, 0.25, 1.0),
    arrays: Mapping[str, Tensor] | None = None,
    failed: Mapping[int, str] | None = None,
    round_: int = ROUND,
) -> RecordDict:
    return encode_reply(round_, Reply(clients, examples, losses, arrays or factors(len(clients))), failed or {})


@pytest.fixture(autouse=True, scope="module")
def _identity() -> None:
    """A grid makes it known who sends messages."""
    runs.grid()


def answer(reply: RecordDict | Error) -> Message:
    question = Message(RecordDict(), 1, "train")
    return Message(reply, reply_to=question)


def decode(reply: RecordDict | Error) -> tuple[Reply, list[Refusal]]:
    return decode_reply(answer(reply), ROUND, ASKED, SHAPES, torch.float32)


def refused(reply: RecordDict | Error) -> str:
    """The reason for which all that was asked of the host is refused."""
    good, refusals = decode(reply)
    assert not good.clients and all(len(value) == 0 for value in good.factors.values())
    assert [refusal.clients for refusal in refusals] == [ASKED]
    assert str(refusals[0]).startswith("clients 7, 2, 5: ")
    return refusals[0].reason


def test_a_good_reply_is_taken_as_it_is() -> None:
    good, refusals = decode(content())
    assert not refusals
    assert (good.clients, good.examples, good.losses) == (ASKED, [4, 1, 9], [0.5, 0.25, 1.0])
    assert all(torch.equal(good.factors[key], value) for key, value in factors().items())


@pytest.mark.parametrize("round_", [2, 4, 0, True, 3.0, "3", [3]])
def test_another_round(round_: Any) -> None:
    reply = content()
    reply.config_records["reply"]["round"] = round_
    assert f"round is {round_!r}, expected 3" in refused(reply)


@pytest.mark.parametrize(
    "clients", [[7, 2], [7, 2, 5, 6], [7, 2, 6], [7, 2, 2], [7, 2, 5, 5], []], ids=lambda c: "-".join(map(str, c))
)
def test_other_clients_than_those_asked(clients: list[int]) -> None:
    reason = refused(content(clients, [1] * len(clients), [0.5] * len(clients)))
    assert reason == f"field clients is {sorted(clients)}, expected [2, 5, 7]"


@pytest.mark.parametrize("clients", [[7.0, 2.0, 5.0], [True, True, False], ["7", "2", "5"]])
def test_clients_that_are_no_integers(clients: list[Any]) -> None:
    assert "field clients must be a list of integers" in refused(content(clients))


def test_names_of_factors() -> None:
    whole = content()["factors"]["factors"]
    for names in ([], ["w:A"], ["factors", "w:A"]):
        reply = content()
        reply["factors"] = ArrayRecord(dict.fromkeys(names, whole))
        assert f"factors has names {names}, expected ['factors']" in refused(reply)


@pytest.mark.parametrize(
    "shape", [(3, 2), (3, 10), (3, 12), (2, 11), (4, 11), (11, 3), (3, 11, 1), (1, 3, 11), (33,), (0, 11), ()], ids=str
)
def test_shape_of_the_factors(shape: tuple[int, ...]) -> None:
    reply = content()
    reply["factors"] = to_record({"factors": torch.ones(shape)})
    assert refused(reply) == f"field factors is torch.float32 {shape}, expected torch.float32 (3, 11)"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.int64, torch.bool], ids=str)
def test_dtype_of_the_factors(dtype: torch.dtype) -> None:
    reason = refused(content(arrays={key: value.to(dtype) for key, value in factors().items()}))
    assert reason == f"field factors is {dtype} (3, 11), expected torch.float32 (3, 11)"


@pytest.mark.parametrize("examples", [[4, 0, 9], [4, -1, 9], [4.0, 1.0, 9.0], [4, 1], [4, 1, 9, 1], [], 4])
def test_numbers_of_examples(examples: Any) -> None:
    reply = content()
    reply.metric_records["metrics"]["examples"] = examples
    assert "examples" in refused(reply)


def test_a_number_of_examples_that_is_a_truth_value() -> None:
    reply = content()
    reply.metric_records["metrics"].__dict__["_data"]["examples"] = [4, True, 9]  # Flower's own check left out
    assert "field examples must be a list of integers" in refused(reply)


@pytest.mark.parametrize("losses", [[0.5, 0.25], [], 0.5, [0, 1, 10**400]])
def test_losses(losses: Any) -> None:
    reply = content()
    reply.metric_records["metrics"]["losses"] = losses
    assert "losses" in refused(reply) or "too large" in refused(reply)


@pytest.mark.parametrize("record", ["reply", "metrics", "factors"])
def test_a_missing_record(record: str) -> None:
    reply = content()
    del reply[record]
    assert refused(reply) == f"field '{record}' is missing"


@pytest.mark.parametrize(("record", "field"), [("reply", "round"), ("reply", "clients"), ("metrics", "examples")])
def test_a_missing_field(record: str, field: str) -> None:
    reply = content()
    del reply[record][field]  # type: ignore[union-attr]
    assert refused(reply) == f"field '{field}' is missing"


def test_records_of_the_wrong_kind() -> None:
    kinds = {"reply": ArrayRecord(), "metrics": ConfigRecord(), "factors": MetricRecord()}
    for name, record in kinds.items():
        reply = content()
        reply[name] = record
        assert refused(reply) == f"field '{name}' is missing"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["w:A", "v:D", "losses"])
def test_a_client_whose_numbers_are_not_finite_is_refused_alone(field: str, value: float) -> None:
    arrays, losses = factors(), [0.5, 0.25, 1.0]
    if field == "losses":
        losses[1] = value
    else:
        arrays[field][1].view(-1)[-1] = value
    good, refusals = decode(content(arrays=arrays, losses=losses))
    assert [str(r) for r in refusals] == [f"client 2: field {field} is not finite"]
    assert (good.clients, good.examples, good.losses) == ([7, 5], [4, 9], [0.5, 1.0])
    for key, whole in factors().items():
        assert torch.equal(good.factors[key], whole[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_client_whose_factor_could_not_be_merged_is_refused_alone(dtype: torch.dtype) -> None:
    """A product of two of them would not be finite; what is large, but can be merged, is for others to judge."""
    largest = torch.finfo(dtype).max
    for size, taken in ((largest**0.5 * 1e-4, True), (largest**0.5 * 1.1, False), (-largest / 2, False)):
        arrays = {key: value.to(dtype) for key, value in factors().items()}
        arrays["w:A"][2, 1, 3] = size
        good, refusals = decode_reply(answer(content(arrays=arrays)), ROUND, ASKED, SHAPES, dtype)
        assert good.clients == (ASKED if taken else ASKED[:2])
        assert [str(r) for r in refusals] == (
            [] if taken else [f"client 5: field w:A is {abs(size):.1e}: a product of such is not finite"]
        )


def test_a_client_with_other_examples_than_announced_is_refused_alone() -> None:
    announced = {7: 4, 2: 1, 5: 8, 99: 1}
    good, refusals = decode_reply(answer(content()), ROUND, ASKED, SHAPES, torch.float32, announced)
    assert [str(r) for r in refusals] == ["client 5: field examples is 9, but the host had announced 8"]
    assert good.clients == [7, 2]


def test_a_host_that_needs_more() -> None:
    for reason, told in (("missing", "no longer has the state"), ("differs", "another digest"), ("?", "?")):
        assert lack_of(answer(encode_lack(reason))) == reason
        assert told in refused(encode_lack(reason))
    assert lack_of(answer(content())) is None and lack_of(answer(Error(1))) is None
    assert offers_of(answer(encode_lack("missing", ["a", "b"]))) == ("a", "b")
    foreign: list[Any] = ["x", 3, ["y" * 9] * 99, ["z" * 999]]
    for offers in foreign:
        found = offers_of(answer(RecordDict({"cannot_rebuild": ConfigRecord({"offers": offers})})))
        assert len(found) <= 8 and all(len(offer) <= 64 for offer in found)


def test_whether_a_host_keeps_the_state() -> None:
    reply = Reply(ASKED, [1, 1, 1], [0.5, 0.5, 0.5], factors())
    assert [keeps(answer(encode_reply(ROUND, reply, {}, kept))) for kept in (True, False)] == [True, False]
    assert not any(map(keeps, (answer(Error(1)), answer(RecordDict()), answer(encode_lack("missing")))))


def test_failed_clients_are_refused_with_their_reasons() -> None:
    good, refusals = decode(content([5, 7], [9, 4], [1.0, 0.5], failed={2: "ValueError: no data"}))
    assert [str(r) for r in refusals] == ["client 2: raised ValueError: no data"]
    assert good.clients == [5, 7]


def test_a_host_of_which_every_client_failed() -> None:
    good, refusals = decode(content([], [], [], failed=dict.fromkeys(ASKED, "it")))
    assert [r.clients for r in refusals] == [[7], [2], [5]]
    assert {key: tuple(value.shape) for key, value in good.factors.items()} == {"w:A": (0, 2, 4), "v:D": (0, 3)}


@pytest.mark.parametrize(
    ("failed", "reasons"), [([2, 2], ["a", "b"]), ([2], ["a", "b"]), ([2], []), ([2.0], ["a"]), (2, "a"), ([7], ["a"])]
)
def test_failed_clients_that_make_no_sense(failed: Any, reasons: Any) -> None:
    reply = content([7, 5], [4, 9], [0.5, 1.0])
    reply.config_records["reply"]["failed"], reply.config_records["reply"]["reasons"] = failed, reasons
    assert "failed" in (reason := refused(reply)) or "clients" in reason


def test_error_replies() -> None:
    assert refused(Error(1, "out of memory")) == "raised out of memory"
    assert refused(Error(1)) == "raised an error without a reason"
    assert refused(RecordDict({"error": ConfigRecord({"reason": "KeyError: 'x'"})})) == "raised KeyError: 'x'"
    assert refused(RecordDict({"error": ConfigRecord()})) == "field 'reason' is missing"


def test_refusals_of_many_clients_are_short() -> None:
    assert str(Refusal(range(9), "late")) == "clients 0, 1, 2, 3, 4, ...: late"


def test_replies_are_joined_in_order_of_client_id() -> None:
    one, other = decode(content())[0], Reply([1, 6], [2, 3], [0.1, 0.6], {k: 10 * v for k, v in factors(2).items()})
    for replies in ([one, other], [other, one]):
        whole = join(replies)
        assert whole.clients == [1, 2, 5, 6, 7]
        assert whole.examples == [2, 1, 9, 3, 4]
        assert whole.losses == [0.1, 0.25, 1.0, 0.6, 0.5]
        assert whole.factors["v:D"][:, 0].tolist() == [10, 2, 3, 20, 1]
        assert whole.factors["w:A"][:, 1, 2].tolist() == [10, 2, 3, 20, 1]
