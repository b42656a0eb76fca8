"""A host serves its share of the clients: each one's result is its own, whoever else is served, or fails."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import runs
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from runs import arrays, equal, grid, start, strategy, workload
from torch import Tensor
from torch.nn import functional as F

from fedrac import data, models
from fedrac.algorithm.state import ServerState
from fedrac.flower import host as host_module
from fedrac.flower.host import Host
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.node import answering, host_of
from fedrac.partition import partition
from fedrac.protocol.messages import RoundPlan, decode_plan
from fedrac.protocol.replies import Reply

EVERYONE = list(range(runs.CLIENTS))


def plan(clients: Sequence[int] = (3, 0, 5, 1), round_: int = 1) -> RoundPlan:
    message, *_ = strategy().configure_train(round_, start(), ConfigRecord(), grid())
    return replace(decode_plan(message.content), clients=list(clients))


def train(host_: Host, told: RoundPlan) -> tuple[Reply, dict[int, str]]:
    """From the initial weights."""
    return host_.train(told, ServerState(0, arrays(start()), {}))


@pytest.fixture
def served() -> Host:
    return Host(workload(), 0, 1)


def factors_of(reply: Reply, client: int) -> dict[str, Tensor]:
    return {key: value[reply.clients.index(client)] for key, value in reply.factors.items()}


@pytest.mark.parametrize("count", [1, 2, 4, 6, 9])
def test_hosts_share_the_clients(count: int) -> None:
    sizes = partition.make(workload()["partition"], data.load(workload()["data"]), 1).sizes
    seen: list[int] = []
    for place in range(count):
        hosted = Host(workload(), place, count).hosted()
        assert hosted.clients.tolist() == [c for c in EVERYONE if c % count == place]
        assert hosted.examples.tolist() == sizes[hosted.clients].tolist()
        seen += hosted.clients.tolist()
    assert sorted(seen) == EVERYONE


def test_hosts_in_one_process_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    load = data.load
    monkeypatch.setattr("fedrac.flower.host.data.load", lambda spec: loads.append(spec) or load(spec))
    runs.train(strategy(workload(seed=11)), 5, rounds=3)
    assert len(loads) == 1


def test_a_host_beside_another_has_clients_of_its_own(served: Host) -> None:
    other = served.beside(1, 4)
    assert other.hosted().clients.tolist() == [1, 5]
    assert served.hosted().clients.tolist() == EVERYONE


def test_results_come_in_the_order_of_the_plan(served: Host) -> None:
    reply, failed = train(served, plan([3, 0, 5, 1]))
    other, _ = train(served, plan([0, 1, 3, 5]))
    assert not failed and reply.clients == [3, 0, 5, 1]
    assert reply.examples == [int(served.partition.sizes[c]) for c in reply.clients]
    for client in reply.clients:
        equal(factors_of(reply, client), factors_of(other, client), 1e-12)
    first, second = (factors_of(reply, client)["layers.0.weight:A"] for client in (3, 5))
    assert float((first - second).abs().max()) > 1e-3


def test_a_host_forgets_what_it_did(served: Host) -> None:
    again = train(served, plan())[0].factors
    train(served, plan([2], round_=2))
    served.evaluate({name: 2 * value for name, value in arrays(start()).items()}, [4])
    equal(dict(train(served, plan())[0].factors), dict(again))


class BadClient(RuntimeError):
    pass


def spoil(monkeypatch: pytest.MonkeyPatch, served: Host, bad: Sequence[int]) -> None:
    """Whoever touches the examples of these clients fails."""
    rows = {int(row) for client in bad for row in served.partition.of(client)}
    take = Host._take

    def taking(self: Host, index: Tensor) -> tuple[Tensor, Tensor]:
        if rows & set(index.tolist()):
            raise BadClient("cannot read")
        return take(self, index)

    monkeypatch.setattr(Host, "_take", taking)


@pytest.mark.parametrize("bad", [[0], [5], [3, 1]])
def test_a_client_that_raises_costs_only_itself(monkeypatch: pytest.MonkeyPatch, served: Host, bad: list[int]) -> None:
    good = [client for client in (0, 1, 3, 5) if client not in bad]
    expected, _ = train(served, plan(good))
    spoil(monkeypatch, served, bad)
    reply, failed = train(served, plan())
    assert failed == dict.fromkeys(sorted(bad, key=plan().clients.index), "BadClient: cannot read")
    assert (reply.clients, reply.examples) == (good, expected.examples)
    assert reply.losses == pytest.approx(expected.losses, rel=1e-12)
    equal(dict(reply.factors), dict(expected.factors), 1e-12)


@pytest.mark.parametrize("clients", [[2], [2, 4, 0]])
def test_a_host_whose_clients_all_raise(monkeypatch: pytest.MonkeyPatch, served: Host, clients: list[int]) -> None:
    spoil(monkeypatch, served, clients)
    reply, failed = train(served, plan(clients))
    assert not reply.clients and set(failed) == set(clients)


def test_a_sketch_that_is_another_here_is_refused_with_the_mend() -> None:
    grid_ = grid()
    message, *_ = strategy().configure_train(1, start(), ConfigRecord(), grid_)
    spec = str(message.content["plan"]["spec"])
    digest = decode_plan(message.content).spec.digest
    message.content["plan"]["spec"] = spec.replace(digest, digest[::-1])
    (reply,) = grid_.send_and_receive([message])
    reason = str(reply.content["error"]["reason"])
    assert "differ from the server's" in reason
    assert "sketch.send=matrix" in reason and "sketch.law=popcount" in reason


def test_a_sketch_that_was_sent_need_not_be_drawn_alike(served: Host) -> None:
    message, *_ = strategy(send_sketch="matrix").configure_train(1, start(), ConfigRecord(), grid())
    sent = decode_plan(message.content)
    other = replace(sent, spec=replace(sent.spec, digest="another"))
    equal(dict(train(served, other)[0].factors), dict(train(served, sent)[0].factors))


def test_a_model_that_is_another_here() -> None:
    sent = plan()
    block = {"name": "layers.7.weight", "rank": 1, "scale": 1.0}
    with pytest.raises(ValueError, match=r"no parameter 'layers.7.weight'; the server's model differs"):
        train(Host(workload(), 0, 1), replace(sent, spec=replace(sent.spec, blocks=[block])))
    other = Host(workload(model={**workload()["model"], "hidden": [7]}), 0, 1)
    with pytest.raises(RuntimeError, match="size mismatch for layers"):
        train(other, sent)


def test_evaluation_sums_over_each_clients_own_examples(served: Host) -> None:
    weights = arrays(start())
    columns = served.evaluate(weights, [4, 1])
    model = models.build(workload()["model"], 1).double()
    model.load_state_dict(weights)
    for place, client in enumerate([4, 1]):
        rows = served.partition.of(client)
        x, y = (torch.tensor(part[rows]).double() for part in (served.data.train.inputs, served.data.train.targets))
        assert columns["examples"][place] == len(rows)
        assert columns["mse"][place] == pytest.approx(len(rows) * F.mse_loss(model(x), y).item(), rel=1e-12)
        assert columns["loss"][place] == pytest.approx(len(rows) * 1.5 * F.mse_loss(model(x), y).item(), rel=1e-12)


def test_evaluation_takes_the_examples_in_parts(monkeypatch: pytest.MonkeyPatch, served: Host) -> None:
    whole, rows = served.evaluate(arrays(start()), [4, 1]), []
    served.model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    monkeypatch.setattr("fedrac.flower.host._ROWS", 2)
    parts = served.evaluate(arrays(start()), [4, 1])
    assert max(rows) == 2 and sum(rows) == sum(whole["examples"])
    assert parts == {name: pytest.approx(values, rel=1e-12) for name, values in whole.items()}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "node-config has no 'partition-id': start the SuperNode with --node-config"),
        ({"partition-id": 0}, "node-config has no 'num-partitions'"),
        ({"partition-id": 2, "num-partitions": 2}, r"partition-id=2 must lie in 0 .. 1"),
        ({"partition-id": -1, "num-partitions": 2}, r"partition-id=-1 must lie in 0 .. 1"),
    ],
)
def test_the_place_of_a_node(config: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        host_of(workload(), Context(1, 1, config, RecordDict(), {}))


def test_a_model_that_does_not_take_the_data() -> None:
    with pytest.raises(ValueError, match=r"set model.inputs=4"):
        Host(workload(model={**workload()["model"], "inputs": 6}), 0, 1)
    with pytest.raises(ValueError, match=r"set model.outputs=3"):
        Host(workload(model={**workload()["model"], "outputs": 2}), 0, 1)
    convolution = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 3, "kernel_size": 3}
    with pytest.raises(ValueError, match=r"the model does not take an example of shape \(4,\)"):
        Host(workload(model=convolution), 0, 1)


def test_blocks_are_found_once_for_all_hosts_of_a_process(served: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    found, find = list[int](), host_module.find_blocks
    monkeypatch.setattr(host_module, "find_blocks", lambda model, told: found.append(len(told)) or find(model, told))
    told = plan()
    blocks = served.blocks(told)
    assert served.beside(1, 2).blocks(plan(round_=2)) is blocks and found == [len(blocks)]
    fewer = replace(told, spec=replace(told.spec, blocks=told.spec.blocks[:1]))
    assert list(served.blocks(fewer)) == list(blocks[:1]) and list(served.blocks(told)) == list(blocks)


def test_what_an_answer_raises_is_its_reason() -> None:
    def answer(message: Message, context: Context) -> RecordDict:
        raise ZeroDivisionError("why")

    app = ClientApp()
    app.train()(answering(answer))
    (reply,) = InProcessGrid(app).send_and_receive([Message(RecordDict(), 1, "train")])
    assert reply.content["error"]["reason"] == "ZeroDivisionError: why"
