"""Who a node is: with data of its own one client, the same for the whole run; it may not say that it is others."""

from collections.abc import Iterable

import pytest
import runs
from flwr.proto.node_pb2 import NodeInfo
from test_connected_clients import Answers, hosted

from fedrac.protocol.connected_clients import ConnectedClients, Hosted
from fedrac.protocol.node_bindings import identity_of


class Registered(Answers):
    """Nodes with keys, as a SuperLink tells them; a number of its own for every start of a node."""

    def __init__(self, answers: dict[int, Hosted], keys: dict[int, bytes]) -> None:
        super().__init__(dict(answers))
        self.keys = keys

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, public_key=self.keys.get(node, b"")) for node in self.answers]


def own(client: int) -> Hosted:
    return hosted([client], "")


def population(scheme: str = "nodes") -> ConnectedClients:
    return ConnectedClients(runs.workload(partition={"scheme": scheme}), 0.0)


def test_a_node_with_data_of_its_own_is_one_client() -> None:
    """At the start it stops the run, later it is left out; the others go on."""
    everyone = hosted(range(100), "")
    with pytest.raises(RuntimeError, match=r"node 3 cannot serve: it says that it is 100 clients, .* a node is one"):
        population().refresh(Registered({1: own(0), 2: own(1), 3: everyone}, {}))
    grid, found = Registered({1: own(0), 2: own(1)}, {}), population()
    found.refresh(grid)
    grid.answers[3] = everyone
    found.refresh(grid)
    assert found.clients.tolist() == [0, 1] and set(found.hosts) == {1, 2}


def test_hosts_of_simulated_clients_only_where_common_data_are_divided() -> None:
    with pytest.raises(RuntimeError, match=r"it shares common data, .*partition=nodes.* data="):
        population().refresh(Registered({1: own(0), 2: hosted([1], "split")}, {}))
    with pytest.raises(RuntimeError, match="its own only, and the run divides common ones"):
        population("size").refresh(Registered({1: own(0)}, {}))
    common = population("size")
    common.refresh(Registered({1: hosted([0, 2], "split"), 2: hosted([1], "split")}, {}))
    assert common.clients.tolist() == [0, 1, 2]


@pytest.mark.parametrize("keys", [{1: b"a", 2: b"b", 3: b"c", 9: b"a"}, {}], ids=["keys", "no keys"])
def test_nobody_takes_the_number_of_a_node_that_is_away(
    keys: dict[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """And the true one comes back to it: with its key under whatever number it gets, else with its number."""
    grid, found = Registered({1: own(0), 2: own(1)}, keys), population()
    found.refresh(grid)
    del grid.answers[1]
    grid.answers[3] = own(0)
    found.refresh(grid)
    assert found.clients.tolist() == [1] and "client 0 of this run is the node with the key" in caplog.text
    grid.answers[9 if keys else 1] = own(0)
    found.refresh(grid)
    assert found.by_host([0, 1]) == {(9 if keys else 1): [0], 2: [1]}


def test_a_node_stays_the_client_that_it_was() -> None:
    grid, found = Registered({1: own(0), 2: own(1)}, {}), population()
    found.refresh(grid)
    grid.answers[1] = own(7)
    found.doubt([1])
    found.refresh(grid)
    assert found.clients.tolist() == [1]


def test_bindings_outlive_the_process() -> None:
    """What `watch` was told goes on, and it is told of every new one, at once."""
    keys = {1: b"a", 2: b"b", 3: b"c"}
    first, told = population(), []
    first.refresh(Registered({1: own(0)}, keys))
    first.bindings.watch({}, lambda bound: told.append(dict(bound)))
    first.refresh(Registered({1: own(0), 2: own(1)}, keys))
    one, two = (identity_of(NodeInfo(public_key=keys[node])) for node in (1, 2))
    assert told == [{0: one}, {0: one, 1: two}]
    resumed = population()
    resumed.bindings.watch(told[-1], told.append)
    with pytest.raises(RuntimeError, match="client 1 of this run is the node with the key"):
        resumed.refresh(Registered({1: own(0), 3: own(1)}, keys))
    assert len(told) == 2
