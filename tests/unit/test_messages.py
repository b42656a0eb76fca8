"""What crosses between server and hosts: it comes back as it was sent, once, and its size is known exactly."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from runs import arrays, equal, grid, methods, start, strategy, workload

from fedrac.blocks import AdaptSpec
from fedrac.client_evaluation import decode_evaluation, encode_evaluation
from fedrac.messages import (
    RoundSpec,
    decode_plan,
    encode_plan,
    from_record,
    payload_bytes,
    to_record,
)
from fedrac.method import Method
from fedrac.optimizer import LocalSpec
from fedrac.schedule import ScheduleSpec
from fedrac.server import ServerSpec
from fedrac.sketch import SketchSpec
from fedrac.strategy import FedRacLora

ALL = ServerSpec(cohort_size=runs.CLIENTS)


def plans(of: FedRacLora, nodes: int = 3, round_: int = 1) -> list[Message]:
    return list(of.configure_train(round_, start(of.workload), ConfigRecord(), grid(nodes)))


def test_a_plan_comes_back_as_it_was_sent() -> None:
    spec = RoundSpec(
        3,
        workload(seed=2**62 + 1),
        [{"name": "a.weight", "rank": None, "scale": 1.0}, {"name": "b", "rank": 2, "scale": 1 / 3}],
        Method("x", "both", "right", False, False, "products"),
        SketchSpec("haar", "right", 2**62 + 1),
        "digest",
        LocalSpec("adamw", 0.1 + 0.2, 3, 7, "replacement", betas=(0.8, 1 / 3), clip=1e-300, max_rows=5),
    )
    weights = {"a": torch.rand(2, 3, dtype=torch.float64), "count": torch.tensor(7), "none": torch.empty(0, 2)}
    records = [to_record(weights), to_record({"b:A": torch.rand(2, 2)}), to_record({"b": torch.rand(1)})]
    plan = decode_plan(encode_plan(spec, [5, 9], *records))
    assert plan.spec == spec
    assert plan.clients == [5, 9]
    for sent, got in zip(records, (plan.weights, plan.factors, plan.sketches), strict=True):
        equal(dict(got), arrays(sent))
    assert plan.weights["count"].shape == () and plan.weights["count"].dtype == torch.int64


def test_an_evaluation_comes_back_as_it_was_sent() -> None:
    asked = decode_evaluation(encode_evaluation(workload(), [4, 0], start()))
    assert (asked.workload, asked.clients) == (workload(), [4, 0])
    equal(dict(asked.weights), arrays(start()))


@pytest.mark.parametrize("tensor", [torch.arange(6.0).view(2, 3).T, torch.ones(2, requires_grad=True), torch.ones(())])
def test_tensors_of_any_layout(tensor: torch.Tensor) -> None:
    equal(from_record(to_record({"x": tensor})), {"x": tensor.detach()})


def test_tensors_that_were_read_can_be_written_to() -> None:
    from_record(to_record({"x": torch.zeros(3)}))["x"][1] = 1


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 3, 4, 1, 1, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_payload_is_the_numbers_alone(shape: tuple[int, ...], dtype: type) -> None:
    array = np.zeros(shape, dtype)
    assert payload_bytes(ArrayRecord({"x": Array(array)})) == array.nbytes


def test_payload_of_bytes_that_are_no_arrays() -> None:
    for data in (b"", b"x", b"x" * 9, b"\xff" * 500, pickle.dumps([1, 2])):
        assert 0 <= payload_bytes(ArrayRecord({"x": Array("?", (10**30, -1), "", data)})) <= len(data)


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("send", ["seed", "matrix"])
def test_bytes_of_a_round(name: str, send: str) -> None:
    """Up: the trained factors of every client. Down: the model, and what else is sent, to every client."""
    method, rank, number = methods()[name], 2, 8
    spec = AdaptSpec({"*": rank}, ("layers.1.bias",))
    found = strategy(method=method, adapt=spec, send_sketch=send, server=ALL)
    report = runs.train(found, 2, rounds=2)[-1]
    layers = [(5, 4), (3, 5)]  # (m, n)
    left, right = sum(rank * n for _, n in layers), sum(m * rank for m, _ in layers)
    full = sum(m * n for m, n in layers)
    up = {"full": full, "both": left + right, "factor": left if method.side == "left" else right}[method.train] + 3
    assert report.upload_bytes == up * number * runs.CLIENTS
    model = full + 5 + 3
    sketches = (right if method.side == "left" else left) if send == "matrix" and method.train != "full" else 0
    carried = 0 if method.merge else up - 3
    assert report.download_bytes == (model + sketches + carried) * number * runs.CLIENTS


def test_float32_is_half_as_much() -> None:
    reports = [runs.train(strategy(workload(dtype=dtype)), rounds=1)[0] for dtype in ("float64", "float32")]
    for name in ("upload_bytes", "download_bytes"):
        double, single = (getattr(report, name) for report in reports)
        assert double == 2 * single > 0


@pytest.mark.parametrize("name", methods())
def test_messages_share_their_records(name: str) -> None:
    """However many hosts there are, the weights are encoded once, and travel once to a SuperLink."""
    found = strategy(method=methods()[name], send_sketch="matrix", server=ALL)
    for round_ in (1, 2):
        sent = plans(found, 3, round_)
        assert len(sent) == 3
        for record in ("weights", "factors", "sketches"):
            assert len({id(message.content[record]) for message in sent}) == 1
        replies = grid(3).send_and_receive(sent)
        weights = found.effective_weights() if found.method.merge else None
        found.aggregate_train(round_, replies)
        if weights is not None:
            equal(arrays(sent[0].content.array_records["weights"]), weights)
    first, *others = ({key for key in get_all_nested_objects(message)} for message in sent)
    own = {message.content.object_id for message in sent} | {message.object_id for message in sent}
    own |= {message.content["plan"].object_id for message in sent}
    assert all(other - own == first - own for other in others)


def test_weights_are_encoded_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    monkeypatch.setattr("fedrac.strategy.to_record", lambda t: encoded.extend(t) or to_record(t))
    found = strategy(server=ALL)
    runs.train(found, 5, rounds=4, evaluate_fn=lambda *_: None)
    assert encoded.count("layers.0.weight") == 4


def test_the_sketch_is_in_the_message_only_if_it_is_sent() -> None:
    message = plans(strategy())[0].content
    assert not message.array_records["sketches"]
    assert json.loads(str(message.config_records["plan"]["spec"]))["sketch"]["seed"] == 1
    message = plans(strategy(send_sketch="matrix"))[0].content
    assert set(message.array_records["sketches"]) == {"layers.0.weight", "layers.1.weight"}


def test_a_sketch_that_is_sent_is_used() -> None:
    """Twice the sketch at half the scale is the same model, and twice the gradient."""
    found = strategy(send_sketch="matrix", local=LocalSpec("sgd", 0.01, sampling="full"), server=ALL)
    usual = _factors(found, plans(found, 1)[0])
    message = plans(found, 1)[0]
    sketches = message.content.array_records["sketches"]
    for name, value in arrays(sketches).items():
        sketches[name] = Array((2 * value).numpy())
    twice = _factors(found, message)
    for key in ("layers.0.weight:A", "layers.1.weight:A"):
        torch.testing.assert_close(twice[key], 2 * usual[key], rtol=1e-12, atol=1e-15)
        assert bool(usual[key].abs().max() > 1e-6)


def _factors(found: FedRacLora, message: Message) -> dict[str, torch.Tensor]:
    (reply,) = grid().send_and_receive([message])
    return arrays(reply.content.array_records["factors"])


@pytest.mark.parametrize("name", methods())
def test_seed_or_matrix_gives_the_same_run(name: str) -> None:
    seed, matrix = (strategy(method=methods()[name], send_sketch=send) for send in ("seed", "matrix"))
    runs.train(seed, rounds=2)
    runs.train(matrix, rounds=2)
    equal(matrix.effective_weights(), seed.effective_weights())


def test_the_rate_of_the_round_is_sent() -> None:
    found = strategy(local_schedule=ScheduleSpec(warmup=3))
    for round_, share in ((1, 0.25), (2, 0.5), (4, 1.0)):
        sent = decode_plan(plans(found, round_=round_)[0].content).spec
        assert (sent.round, sent.local) == (round_, replace(found.local, lr=share * found.local.lr))
