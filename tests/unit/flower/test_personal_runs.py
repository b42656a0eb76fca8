"""What stays with clients in whole runs: where it is kept, what is sent, and what it is worth to each client."""

import re
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from command import TINY
from flwr.app import Message, RecordDict
from runs import equal, methods, strategy

import fedrac
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.cli.commands import split
from fedrac.experiment import compose, run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol import own_state
from fedrac.protocol.node_config import own_nodes
from fedrac.protocol.own_state import NodeOwn

FEDSA = methods()["fedsa_lora"]
NODES = [
    "experiment=nodes",
    "method=fedsa_lora",
    "rank=2",
    "cohort.size=3",
    "evaluate.every=1",
    "runtime.dtype=float64",
    "local.schedule.shape=constant",
]
COMMAND = [*TINY, "method=fedsa_lora", "rank=2", "evaluate.every=1", "evaluate.on_clients=all", "cohort.size=2"]


def test_a_client_sends_what_is_shared_and_no_more() -> None:
    found = strategy(method=FEDSA, server=ServerSpec(runs.CLIENTS))
    (report,) = runs.train(found, 2, rounds=1)
    assert report.upload_bytes == runs.CLIENTS * 8 * (2 * (4 + 5) + 3 + 5)  # A of both layers, and the biases
    assert found.state is not None and found.state.clients.keys() == set(range(runs.CLIENTS))
    assert {key: tuple(value.shape) for key, value in found.state.clients[0].items()} == {
        "layers.0.weight:B": (5, 2), "layers.1.weight:B": (3, 2),
    }  # fmt: skip
    assert all(not found.state.factors[key].any() for key in found.state.clients[0])  # of who comes new


@pytest.mark.parametrize("name", ["fedsa_lora", "scaffold", "nested_ranks", "hetlora"])
def test_who_does_not_answer_is_as_if_it_had_not_been_asked(name: str) -> None:
    """The mean is over the others, with their ranks; what it keeps is what it kept."""
    lost = (1, 3, 5)  # clients of the second of two nodes

    def without(replies: list[Message]) -> list[Message]:
        return [reply for reply in replies if runs.clients_of(reply)[0] not in lost]

    server = ServerSpec(runs.CLIENTS, min_fraction=0.5)
    first, found, again = (strategy(method=methods()[name], server=server) for _ in range(3))
    runs.train(first, 2, rounds=1)
    for each, nodes in ((found, 2), (again, runs.CLIENTS)):
        each.start(runs.TamperedGrid(without, nodes), runs.start(), 2, state=first.state)
    equal(found.effective_weights(), again.effective_weights(), 1e-12)
    assert first.state is not None and found.state is not None
    for client, kept in first.state.clients.items():
        same = all(torch.equal(value, found.state.clients[client][key]) for key, value in kept.items())
        assert same == (client in lost)
    assert bool(first.state.clients) == (name in ("fedsa_lora", "scaffold"))


def test_a_run_goes_on_with_what_each_client_had(tmp_path: Path) -> None:
    whole = fedrac.run(*COMMAND, "rounds=5", f"output_dir={tmp_path / 'whole'}", progress=False)
    fedrac.run(*COMMAND, "rounds=3", f"output_dir={tmp_path / 'part'}", progress=False)
    resumed = fedrac.run(f"resume={tmp_path / 'part'}", "rounds=5", progress=False)
    for name in ("clients.safetensors", "carried.safetensors"):
        ours, theirs = (runs.load(tmp_path / folder / "checkpoint" / name) for folder in ("whole", "part"))
        equal(ours, theirs)
    assert whole.history["clients/personal_loss"].dropna().tolist() == (
        resumed.history["clients/personal_loss"].dropna().tolist()
    )


def test_each_client_tests_its_own_model_beside_the_global_one(tmp_path: Path) -> None:
    """The personal one is ``W + s B_c A``; of who has not trained yet it is the global one."""
    found = fedrac.run(*COMMAND, "rounds=1", f"output_dir={tmp_path}", progress=False)
    table, cohort = found.clients, set(found.history["cohort"].iloc[-1])
    assert table is not None and len(cohort) == 2 and len(table) == 4
    for row in table.itertuples():
        assert (row.personal_loss != row.loss) == (row.client in cohort)
        assert row.personal_loss <= row.loss
    last = found.history.iloc[-1]
    assert last["clients/mean_personal_loss"] == pytest.approx(table["personal_loss"].mean())
    assert "personal_loss" in found.summary["clients"]


def nodes(output: Path, *overrides: str, run_id: int = 1) -> dict[str, torch.Tensor]:
    """A run of nodes with data of their own, each with a folder; new processes know no more than what is in it.

    Flower has another number for a run that is resumed. What comes back is by node and round.
    """
    settings = compose.load([*overrides, *([] if "resume=" in overrides[0] else [f"output_dir={output}"])])
    configs = [
        {**each, "state": str(output / f"state-{each['partition-id']}")} for each in own_nodes(settings.partition)
    ]
    grid = Looking(client_app.app, configs)
    for context in grid._contexts.values():
        context.run_id = run_id
    run.run(settings, grid, output)
    assert grid.seen and not any(own_state.NAME in content for content in grid.seen)
    files = sorted(output.glob("state-*/own/*.safetensors"))
    return {f"{path.parents[1].name}/{path.stem[-2:]}": runs.load(path)["layers.0.weight:B"] for path in files}


class Looking(InProcessGrid):
    """Keeps what crosses."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seen: list[RecordDict] = []

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        replies = list(super().send_and_receive(sent, timeout=timeout))
        self.seen += [message.content for message in (*sent, *replies) if message.has_content()]
        return replies


def test_a_node_keeps_its_own_on_its_disk(tmp_path: Path) -> None:
    """It never leaves the node; a node that was started anew goes on from its file, also in a run that is resumed."""
    data = places(tmp_path)
    whole = nodes(tmp_path / "whole", *data, "rounds=2")
    nodes(tmp_path / "part", *data, "rounds=1")
    part = nodes(tmp_path / "part", f"resume={tmp_path / 'part'}", "rounds=2", run_id=2)
    assert len(whole) == 6 and whole.keys() == part.keys()  # of two rounds
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value, rtol=0, atol=1e-14)  # another process has other addresses


def test_no_other_run_finds_it(tmp_path: Path) -> None:
    """Who resumes a run without its key is another one: clients begin anew, and what they had is as it was."""
    data = places(tmp_path)
    nodes(tmp_path / "run", *data, "rounds=1")
    key = tmp_path / "run" / "own.key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_text().strip()) == 32
    files = sorted((tmp_path / "run").glob("state-*/own/*.safetensors"))
    kept = [path.read_bytes() for path in files]
    assert len(kept) == 3 and not any(key.read_text().strip() in path.name for path in files)
    key.unlink()
    nodes(tmp_path / "run", f"resume={tmp_path / 'run'}", "rounds=2", run_id=2)
    assert [path.read_bytes() for path in files] == kept
    whole = nodes(tmp_path / "whole", *data, "rounds=2")
    now = sorted((tmp_path / "run").glob("state-*/own/*-00000002.safetensors"))
    assert len(now) == 3 and set(now).isdisjoint(files)
    for path in now:
        anew, value = runs.load(path)["layers.0.weight:B"], whole[f"{path.parents[1].name}/02"]
        assert float((anew - value).abs().max()) > 1e-3 * float(value.abs().max())


def places(folder: Path) -> list[str]:
    """Three nodes with data of their own, and settings that name them."""
    split.main([str(folder / "nodes"), "partition.clients=3"])
    folders = ",".join(str(folder / "nodes" / f"node-{node}") for node in range(3))
    return [*NODES, f"data.path={folder / 'nodes' / 'server'}", f"partition.folders=[{folders}]"]


def test_what_a_message_has_no_key_for_is_filed_under_the_run() -> None:
    name = own_state.filed_under(RecordDict({own_state.KEY: own_state.key_record("0123")}), "7")
    assert name not in ("7", "0123") and re.fullmatch("[0-9a-f]{32}", name)
    for content in (RecordDict(), RecordDict({own_state.KEY: own_state.key_record("")})):
        assert own_state.filed_under(content, "7") == "7"
    escaping = RecordDict({own_state.KEY: own_state.key_record("../../*")})
    assert re.fullmatch("[0-9a-f]{32}", own_state.filed_under(escaping, "7"))


def test_a_round_that_is_done_again_starts_from_the_one_before(tmp_path: Path) -> None:
    kept = NodeOwn(RecordDict(), tmp_path, "run")
    for round_ in (3, 5, 8):
        kept.keep(round_, {"w:B": torch.full((2,), float(round_))})
    assert [kept.before(round_).get("w:B", torch.zeros(1))[0] for round_ in (9, 8, 6)] == [8, 5, 5]
    again = NodeOwn(RecordDict(), tmp_path, "run")  # another process, which has the disk alone
    assert again.before(8)["w:B"][0] == 5 and again.before(5) == {}
    again.keep(6, {"w:B": torch.full((2,), 6.0)})
    assert again.before(9)["w:B"][0] == 6  # round 8 is done again, too
    assert NodeOwn(RecordDict(), tmp_path, "other").before(9) == {}
    memory = NodeOwn(RecordDict(), None, "run")
    for round_ in (3, 5):
        memory.keep(round_, {"w:B": torch.full((2,), float(round_))})
    assert memory.before(6)["w:B"][0] == 5 and memory.before(5)["w:B"][0] == 3 and memory.before(3) == {}


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({7: {"w:B": torch.zeros(2, 3)}}, "field own is of client 7, which was not asked"),
        ({1: {"w:B": torch.zeros(2, 2)}}, "field own is torch.float32 (4,), expected 6 numbers"),
        ({1: {"w:B": torch.full((2, 3), torch.nan)}}, "field own is not finite"),
    ],
)
def test_what_a_host_may_not_send_along(factors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        own_state.decode(own_state.encode(factors), {"w:B": (2, 3)}, [1, 2])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Method(personal=("head.*",)), "head.* matches none of what is trained: layers.0.weight:A"),
        (Method(personal=("*:A",)), "belongs to one sketch: set method.fresh=false method.merge=false"),
        (Method(personal=("*",)), "leaves nothing that clients send"),
    ],
)
def test_what_cannot_stay(method: Method, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        strategy(method=method, adapt=AdaptSpec({"*": 2}, ("*.bias",)))
