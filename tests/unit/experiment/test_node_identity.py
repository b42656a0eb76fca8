"""Who a node is, kept with the run: a resume knows the nodes that it began with."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.proto.node_pb2 import NodeInfo
from test_own_data import SMALL, _of_nodes

from fedrac.cli.commands import split
from fedrac.experiment import compose, run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol.node_bindings import identity_of
from fedrac.protocol.node_config import own_nodes
from fedrac.results import node_bindings


class Keys(InProcessGrid):
    """Nodes with registered keys, in this process."""

    keys: tuple[bytes, ...] = ()

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=n, public_key=key) for n, key in zip(self.get_node_ids(), self.keys, strict=True)]


def go(keys: tuple[bytes, ...], *overrides: str) -> None:
    settings = compose.load(overrides)
    grid = Keys(client_app.app, own_nodes(settings.partition))
    grid.keys = keys
    run.run(settings, grid, Path(settings.output_dir))


def test_a_resume_knows_its_nodes(tmp_path: Path) -> None:
    """Another key for a client's number is refused before anything is done, until its line is taken out."""
    folders, output = tmp_path / "nodes", tmp_path / "out"
    split.main([str(folders), "partition.clients=3", *SMALL])
    keys = (b"a", b"b", b"c")
    go(keys, *_of_nodes(folders), "rounds=1", f"output_dir={output}")
    expected = {client: identity_of(NodeInfo(public_key=key)) for client, key in enumerate(keys)}
    assert node_bindings.read(output) == expected
    before = (output / "metrics.jsonl").read_bytes()
    with pytest.raises(RuntimeError, match="client 1 of this run is the node with the key"):
        go((b"a", b"new", b"c"), f"resume={output}", "rounds=2")
    assert (output / "metrics.jsonl").read_bytes() == before and node_bindings.read(output) == expected
    (output / "nodes.json").write_text(json.dumps({k: v for k, v in expected.items() if k != 1}))
    go((b"a", b"new", b"c"), f"resume={output}", "rounds=2")
    assert node_bindings.read(output)[1] == identity_of(NodeInfo(public_key=b"new"))


@pytest.mark.parametrize("text", ["{", "[]", '{"one": "x"}'])
def test_a_damaged_file_stops_the_resume(tmp_path: Path, text: str) -> None:
    (tmp_path / "nodes.json").write_text(text)
    with pytest.raises(ValueError, match=r"nodes\.json is damaged"):
        node_bindings.read(tmp_path)
