"""A deployed federation on loopback: TLS, authenticated nodes, private data, and everything killed once."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed import Federation, free_port, in_process, make, wait_for
from safetensors.torch import load_file

from fedrac.results.record import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="process groups and a shell script of Linux"),
    pytest.mark.xdist_group("flower"),  # not beside other tests that start a SuperLink
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, app: Path, data: Path) -> Iterator[Federation]:
    """Three nodes, and one whose key nobody registers."""
    port = free_port()
    folder = tmp_path_factory.mktemp("federation") / "federation"
    make(folder, nodes=4, PORT=str(port))
    connection = folder / "flower" / "config.toml"  # straight to the SuperLink, where no proxy takes the token off
    connection.write_text(re.sub(r"operator:\w+@", "", connection.read_text()))
    found = Federation(folder, app, port)
    try:
        found.start_superlink()
        found.register(0, 1, 2)
        found.start_serverapp()
        for node in range(3):
            found.start_node(node, data / f"node-{node}")
        yield found
    finally:
        found.stop()


def _lines(output: Path) -> list[dict[str, Any]]:
    return read_metrics(output / "metrics.jsonl")


def _equal(output: Path, expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Weights, relative to the largest of each matrix; nobody was refused."""
    assert all(line["cohort"] == [0, 1, 2] and "refused" not in line for line in _lines(output))
    for name, value in load_file(output / "checkpoint" / "weights.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance * float(expected[name].abs().max()))


def test_a_federation_from_the_first_key_to_the_last_round(federation: Federation, data: Path, tmp_path: Path) -> None:
    """Five rounds equal the in-process run, although the ServerApp and a node are killed after the second.

    A node with a key that nobody registered is refused.
    """
    output = federation.folder / "outputs" / "run"
    stranger = federation.start_node(3, data / "node-0", again=False)
    federation.run(f"data.path={data / 'server'} pretrain=none rounds=5 output_dir={output}")
    wait_for(lambda: len(_lines(output)) >= 2, pause=0.02)
    federation.kill("serverapp")
    federation.kill("node-1")
    finished = len(_lines(output))
    assert finished < 5

    federation.start_serverapp()
    federation.start_node(1, data / "node-1")
    federation.run(f"resume={output}")
    federation.finish(output)
    assert [line["round"] for line in _lines(output)] == [1, 2, 3, 4, 5]
    _equal(output, in_process(data, tmp_path / "in-process"), 1e-6)

    assert stranger.poll() not in (None, 0) and not federation.says("node-3", "Receiving")
    assert federation.says("node-3", "Exit Code: 305")
    assert federation.says("superlink", "No SuperNode found with the given public key")


def test_a_resumed_run_finds_what_its_clients_kept(federation: Federation, data: Path, tmp_path: Path) -> None:
    """Flower has another number for it. The factors that clients share follow from those that they keep."""
    output, personal = (
        federation.folder / "outputs" / "personal",
        ("method=fedsa_lora", "rank=2", "local.schedule.shape=constant"),
    )
    federation.run(f"data.path={data / 'server'} pretrain=none rounds=3 output_dir={output} {' '.join(personal)}")
    federation.finish(output)
    (output / "summary.json").unlink()
    federation.run(f"resume={output} rounds=5")
    federation.finish(output)
    in_process(data, tmp_path / "in-process", *personal)
    found, expected = (
        load_file(folder / "checkpoint" / "carried.safetensors") for folder in (output, tmp_path / "in-process")
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6 * float(value.abs().max()))


def test_a_sum_over_institutions_of_which_the_server_sees_no_summand(
    federation: Federation, data: Path, tmp_path: Path
) -> None:
    """With TLS, and a process a message: what a node remembers between the steps of a round outlives the process.

    One node's policy takes part in no other rounds.
    """
    output, secure = federation.folder / "outputs" / "secure", ("secure_aggregation=on", "guard.clip=2", "rounds=2")
    policy = federation.folder / "nodes" / "0" / "policy.yaml"
    policy.write_text(policy.read_text() + "\nsecure: true\n")
    federation.run(f"data.path={data / 'server'} pretrain=none output_dir={output} {' '.join(secure)}")
    federation.finish(output)
    _equal(output, in_process(data, tmp_path / "in-process", *secure), 1e-4)
    assert federation.says("node-0", "secure: True")
