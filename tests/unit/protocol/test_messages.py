"""What crosses between server and hosts: it comes back as it was sent, once, and its size is known exactly."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.common.constant import SType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from runs import arrays, equal, grid, methods, start, strategy, workload

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.controlled import Controlled
from fedrac.algorithm.method import Method
from fedrac.algorithm.schedule import ScheduleSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.sketch import SketchSpec
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.messages import (
    RoundSpec,
    decode_plan,
    decode_update,
    encode_plan,
    encode_update,
    from_record,
    pack,
    payload_bytes,
    to_record,
    unpack,
)
from fedrac.protocol.round_report import RoundReport
from fedrac.protocol.state_log import Step, Update
from fedrac.training.optimizer import LocalSpec

ALL = ServerSpec(cohort_size=runs.CLIENTS)


def plans(of: FedRacLora, nodes: int = 3, round_: int = 1) -> list[Message]:
    return list(of.configure_train(round_, start(of.workload), ConfigRecord(), grid(nodes)))


def test_a_plan_comes_back_as_it_was_sent() -> None:
    spec = RoundSpec(
        3,
        workload(seed=2**62 + 1),
        [{"name": "a.weight", "rank": None, "scale": 1.0}, {"name": "b", "rank": 2, "scale": 1 / 3}],
        Method("x", "both", "right", False, False, "products"),
        SketchSpec("haar", 2**62 + 1),
        "digest",
        LocalSpec("adamw", 0.1 + 0.2, 3, 7, "replacement", betas=(0.8, 1 / 3), clip=1e-300, max_tokens=5),
        9,
    )
    weights = {"a": torch.rand(2, 3, dtype=torch.float64), "count": torch.tensor(7), "none": torch.empty(0, 2)}
    steps = (Step(3, 0.1 + 0.2, torch.rand(5)), Step(7, 1 / 3, torch.rand(5)))
    update = Update(8, "digest of W", "digest of another", steps, weights, {"b:A": torch.rand(2, 2)})
    sketches = to_record({"b": torch.rand(1)})
    plan = decode_plan(encode_plan(spec, [5, 9], encode_update(update), sketches))
    assert (plan.spec, plan.clients) == (spec, [5, 9])
    got = plan.update
    assert (got.round, got.digest, got.base) == (update.round, update.digest, update.base)
    assert [(step.round, step.eta) for step in got.steps] == [(3, 0.1 + 0.2), (7, 1 / 3)]
    assert all(torch.equal(step.means, sent.means) for step, sent in zip(got.steps, steps, strict=True))
    equal(dict(got.weights), weights)
    equal(dict(got.factors), dict(update.factors))
    equal(dict(plan.sketches), arrays(sketches))
    assert got.weights["count"].shape == () and got.weights["count"].dtype == torch.int64


def test_an_update_of_nothing() -> None:
    update = decode_update(encode_update(Update(0, "d", "d", (), {}, {})))
    assert update == Update(0, "d", "d", (), {}, {})


@pytest.mark.parametrize("axes", [(), (4,)])
def test_packed_tensors_come_back(axes: tuple[int, ...]) -> None:
    shapes = {"b": (2, 3), "a": (5,), "none": (0, 2), "c": (1, 2, 2)}
    tensors = {name: torch.rand(*axes, *shape) for name, shape in shapes.items()}
    packed = pack(tensors, len(axes))
    assert packed.shape == (*axes, 15)
    equal(unpack(packed, dict(reversed(shapes.items()))), dict(reversed(tensors.items())))


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


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method.densities is None])
@pytest.mark.parametrize("send", ["seed", "matrix"])
def test_bytes_of_a_round(name: str, send: str) -> None:
    """Up: the trained factors of every client. Down: what moved the state last, or what it moved, if that is less."""
    method, rank, number = methods()[name], 2, 8
    spec = AdaptSpec({"*": rank}, ("layers.1.bias",))
    found = strategy(method=method, adapt=spec, send_sketch=send, server=ALL)
    first, report = runs.train(found, 2, rounds=2)
    layers = [(5, 4), (3, 5)]  # (m, n)
    left, right = sum(rank * n for _, n in layers), sum(m * rank for m, _ in layers)
    full = sum(m * n for m, n in layers)
    sides = {"left": left, "right": right, "both": left}  # without adapt.columns the right side of both is the identity
    factors = [sides[method.at(round_).side] for round_ in (1, 2)]
    up, after = ({"full": full, "both": left + right, "factor": factor}[method.train] for factor in factors)
    begins = up  # numbers that a client needs at first of what is carried on
    up, after = (left, left) if method.personal else (up, after)  # B stays
    ranks = [min(method.client_rank(client, 1) or rank, rank) for client in range(runs.CLIENTS)]
    twice = 2 if isinstance(method, Controlled) and method.sends_controls else 1  # the changes of controls, too
    assert first.upload_bytes == twice * sum((up * own // rank + 3) * number for own in ranks)
    assert report.upload_bytes == twice * sum((after * own // rank + 3) * number for own in ranks)
    assert method.has_ranks == (len(set(ranks)) > 1)
    sent = send == "matrix" and method.train != "full"
    frozen, sketches = (left + right - factor if sent else 0 for factor in factors)
    begin = left + right if len(method.sides) > 1 else begins  # of factors that are carried on
    assert first.download_bytes == ((0 if method.merge else begin) + frozen) * number * runs.CLIENTS
    carried, products = 0 if method.merge else up, full if method.average == "products" else 0
    moved = (full if method.merge or products else 0) + carried
    means = products + carried if products else up
    down = min(moved, means) if send == "seed" else moved
    # Whoever cannot replay is sent the moments of the server's optimizer, too, each as large as what has moved.
    moments = twice - 1 if send == "seed" else len(method.step("", torch.zeros(1), {})[1]) + twice - 1
    assert report.download_bytes == ((1 + moments) * (down + 3) + sketches) * number * runs.CLIENTS


def test_who_was_away_longer_lacks_more() -> None:
    """With two of six clients a round: as many steps as rounds since a client's last; never more than the weights."""
    found = strategy(adapt=AdaptSpec({"*": 1}), server=ServerSpec(cohort_size=2))
    reports = runs.train(found, 2, rounds=12)
    step, moved, last = 4 + 5, 5 * 4 + 3 * 5, dict.fromkeys(range(runs.CLIENTS), 0)
    for report in reports:  # before round 1 all have the initial weights, which they can build
        behind = [report.round - 1 - last[client] for client in report.cohort]
        assert report.download_bytes == 8 * sum(min(step * rounds, moved) for rounds in behind)
        last |= dict.fromkeys(report.cohort, report.round - 1)
    assert any(step * (r.round - 1) > moved for r in reports)


def test_weights_that_hosts_cannot_build_are_sent_once() -> None:
    found, other = strategy(server=ALL), start(workload(seed=9))
    reports: list[RoundReport] = []
    found.start(grid(), other, 2, on_round=reports.append)
    assert reports[0].download_bytes == payload_bytes(other) * runs.CLIENTS
    assert reports[1].download_bytes < reports[0].download_bytes


def test_float32_is_half_as_much() -> None:
    reports = [runs.train(strategy(workload(dtype=dtype)), rounds=2)[1] for dtype in ("float64", "float32")]
    for name in ("upload_bytes", "download_bytes"):
        double, single = (getattr(report, name) for report in reports)
        assert double == 2 * single > 0


@pytest.mark.parametrize("name", methods())
def test_messages_share_their_records(name: str) -> None:
    """However many hosts there are, what they lack is encoded once, and travels once to a SuperLink."""
    found = strategy(method=methods()[name], send_sketch="matrix", server=ALL)
    for round_ in (1, 2):
        sent = plans(found, 3, round_)
        assert len(sent) == 3
        for record in ("update", "steps", "weights", "factors", "sketches"):
            assert len({id(message.content[record]) for message in sent}) == 1
        found.aggregate_train(round_, grid(3).send_and_receive(sent))
    first, *others = ({key for key in get_all_nested_objects(message)} for message in sent)
    own = {message.content.object_id for message in sent} | {message.object_id for message in sent}
    own |= {message.content["plan"].object_id for message in sent}
    kept = [message.content["own"] for message in sent if "own" in message.content]
    own |= {key for record in kept for key in get_all_nested_objects(record)}
    assert all(other - own == first - own for other in others)


def test_weights_in_the_same_process_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    for module in ("flower.strategy", "flower.rounds", "protocol.messages"):
        monkeypatch.setattr(f"fedrac.{module}.to_record", lambda t: encoded.extend(t) or to_record(t))
    found = strategy(server=ALL, evaluate_every=4)
    runs.train(found, 5, rounds=4)
    assert encoded.count("means") == 3
    assert encoded.count("layers.0.weight") == 1  # the result


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
    return unpack(arrays(reply.content.array_records["factors"])["factors"], found.shapes_at(1))


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


def header(descr: str = "'<f4'", shape: str = "(2,)", version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


WHOLE = header() + bytes(8)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (WHOLE[:-1], "buffer is smaller"),
        (WHOLE[:20], "EOF"),
        (b"", "EOF"),
        (header(version=b"\x02\x00") + bytes(8), r"its format is \(2, 0\)"),
        (header(shape="(-1,)") + bytes(8), r"its shape is \(-1,\)"),
        (header(shape="(10**12,)") + bytes(8), "malformed"),
        (header(shape=f"({10**15},)") + bytes(8), "buffer is smaller"),
        (header(descr="'|O'") + bytes(16), "OBJECT"),
        (header(descr="'>f4'") + bytes(8), "byte order"),
        (header(descr="[('a', '<f4')]") + bytes(8), "void"),
    ],
)
def test_bytes_that_are_no_array(data: bytes, why: str) -> None:
    assert torch.equal(from_record(ArrayRecord({"x": Array("float32", (2,), SType.NUMPY, WHOLE)}))["x"], torch.zeros(2))
    with pytest.raises(ValueError, match=f"array 'x' cannot be read.*{why}"):
        from_record(ArrayRecord({"x": Array("float32", (2,), SType.NUMPY, data)}))


def test_an_array_in_another_format() -> None:
    with pytest.raises(ValueError, match="its type is 'pickle'"):
        from_record(ArrayRecord({"x": Array("float32", (2,), "pickle", WHOLE)}))
