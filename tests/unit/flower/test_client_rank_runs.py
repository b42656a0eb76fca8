"""Clients of different rank in whole runs: where ranks come from, what is sent, and what does not go with them."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from flwr.app import Message
from runs import equal, strategy

from fedrac.aggregation.guard import GuardSpec
from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.rounding import BitsSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.simulated_time import SystemSpec
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.strategy import FedRacLora
from fedrac.protocol.messages import payload_bytes

NESTED = Method(ranks=(1, 2))
OWN = Method(ranks=())
ROW, BIASES = 4 + 5, 3 + 5  # numbers of a row of A in both layers, and of what is trained in full


@dataclass(frozen=True)
class ById(Method):
    """A rule of one's own: clients with an even id have rank 1."""

    def client_rank(self, client: int, seed: int) -> int | None:
        return 1 if client % 2 == 0 else None


def everyone(method: Method, **system: Any) -> FedRacLora:
    return strategy(method=method, server=ServerSpec(runs.CLIENTS, system=SystemSpec(**system)))


def sent(found: FedRacLora) -> dict[int, int]:
    """Numbers that each client uploads, of a run with a node for each."""
    sizes: dict[int, int] = {}

    def look(replies: list[Message]) -> list[Message]:
        for reply in replies:
            (client,) = runs.clients_of(reply)
            sizes[client] = payload_bytes(reply.content.array_records["factors"]) // 8
        return replies

    reports = []
    found.start(runs.TamperedGrid(look, runs.CLIENTS), runs.start(), 1, on_round=reports.append)
    assert reports[0].upload_bytes == 8 * sum(sizes.values())
    return sizes


def test_ranks_come_from_a_draw() -> None:
    ranks = {client: NESTED.client_rank(client, 1) for client in range(runs.CLIENTS)}
    assert sent(everyone(NESTED)) == {client: (rank or 0) * ROW + BIASES for client, rank in ranks.items()}
    assert set(ranks.values()) == {1, 2} and everyone(NESTED).uploads() == (2 * ROW + BIASES,)
    more = [Method(ranks=(1, 2, 4, 8)).client_rank(client, 1) for client in range(4000)]
    assert all(abs(more.count(rank) - 1000) < 120 for rank in (1, 2, 4, 8))


def test_ranks_come_from_a_rule_of_ones_own() -> None:
    assert sent(everyone(ById())) == {c: (1 if c % 2 == 0 else 2) * ROW + BIASES for c in range(runs.CLIENTS)}


def test_ranks_come_from_a_table(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("client,rank\n1,1\n4,9\n")
    found = everyone(OWN, table=str(table))
    assert sent(found) == {c: (1 if c == 1 else 2) * ROW + BIASES for c in range(runs.CLIENTS)}
    assert not found.server.system.is_active  # it says nothing of time
    table.with_name("b.csv").write_text("client,rank\n1,1.5\n")
    with pytest.raises(ValueError, match=r"rank 1.5 is not a whole number"):
        everyone(OWN, table=str(table.with_name("b.csv")))


def test_ranks_come_from_a_nodes_own_config() -> None:
    """A node that can do no more than rank 1 is asked for no more, and refuses more."""
    nodes = [{"partition-id": i, "num-partitions": 3, **({"rank": 1} if i == 2 else {})} for i in range(3)]
    found, reports = everyone(OWN), []
    found.start(InProcessGrid(client_app.app, nodes), runs.start(), 1, on_round=reports.append)
    assert reports[0].upload_bytes == 8 * runs.CLIENTS * BIASES + 8 * ROW * (4 * 2 + 2 * 1)
    with pytest.raises(RuntimeError, match=r"rank 2 is asked of a node with rank=1 in its config: set method.ranks"):
        everyone(Method()).start(InProcessGrid(client_app.app, nodes), runs.start(), 1)


def test_a_round_lasts_as_long_as_its_largest_upload() -> None:
    (report,) = runs.train(everyone(NESTED, upload=1.0), rounds=1)
    assert report.simulated_seconds == 8 * (2 * ROW + BIASES)


def test_what_a_client_of_low_rank_sends_has_no_more_numbers() -> None:
    """A reply of another length is refused whole, with what is due."""

    def longer(replies: list[Message]) -> list[Message]:
        other = runs.TamperedGrid(lambda same: same, 1)
        own = strategy(method=replace(NESTED, ranks=(2,)), server=ServerSpec(runs.CLIENTS))
        kept: list[Message] = []
        other.tamper = lambda found: kept.extend(found) or found
        own.start(other, runs.start(), 1)
        replies[0].content.array_records["factors"] = kept[0].content.array_records["factors"]
        return replies

    ranks = [NESTED.client_rank(client, 1) or 0 for client in range(runs.CLIENTS)]
    due = sum(rank * ROW + BIASES for rank in ranks)
    with pytest.raises(RuntimeError, match=re.escape(f"expected torch.float64 ({due},)")):
        everyone(NESTED).start(runs.TamperedGrid(longer, 1), runs.start(), 1)


@pytest.mark.parametrize(
    "changes",
    [{"guard": GuardSpec(clip=1.0)}, {"guard": GuardSpec(mean="median")}, {"bits": BitsSpec(8)}],
)
def test_what_does_not_go_with_ranks(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"clients of different rank cannot be compared"):
        strategy(method=NESTED, **changes)


@pytest.mark.parametrize("what", [0, 1.5, "2"])
def test_a_rule_that_returns_no_rank(what: Any) -> None:
    with pytest.raises(ValueError, match=r"Rule.client_rank\(0, 1\) returned .*, expected a whole number"):
        runs.train(everyone(Rule(what=what)))


@dataclass(frozen=True)
class Rule(Method):
    """Returns what a test gives it."""

    what: Any = None

    def client_rank(self, client: int, seed: int) -> Any:
        return self.what


def test_layers_of_lower_rank_are_trained_whole() -> None:
    """A client's rank is a bound: of a layer of rank 1 all clients have all."""
    plain, ranked = (
        strategy(method=replace(Method(), ranks=ranks), adapt=AdaptSpec({"*": 1})) for ranks in (None, (1, 2))
    )
    runs.train(plain, 2), runs.train(ranked, 3)
    for name, value in plain.effective_weights().items():
        torch.testing.assert_close(ranked.effective_weights()[name], value, rtol=0, atol=1e-14)


def test_hosts_do_not_change_the_run() -> None:
    one, many = everyone(NESTED), everyone(NESTED)
    runs.train(one, 1), runs.train(many, 6)
    equal(many.effective_weights(), one.effective_weights(), 1e-12)
