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


@pytest.fixture
def federation(tmp_path: Path, app: Path) -> Iterator[Federation]:
    port = free_port()
    folder = tmp_path / "federation"
    make(folder, nodes=4, PORT=str(port))
    connection = folder / "flower" / "config.toml"  # straight to the SuperLink, where no proxy takes the token off
    connection.write_text(re.sub(r"operator:\w+@", "", connection.read_text()))
    found = Federation(folder, app, port)
    try:
        yield found
    finally:
        found.stop()


def _lines(output: Path) -> list[dict[str, Any]]:
    return read_metrics(output / "metrics.jsonl")


def test_a_federation_from_the_first_key_to_the_last_round(federation: Federation, data: Path, tmp_path: Path) -> None:
    """Five rounds equal the in-process run, although the ServerApp and a node are killed after the second.

    A node with a key that nobody registered is refused.
    """
    output = federation.folder / "outputs" / "run"
    federation.start_superlink()
    federation.register(0, 1, 2)
    federation.start_serverapp()
    for node in range(3):
        federation.start_node(node, data / f"node-{node}")
    stranger = federation.start_node(3, data / "node-0", again=False)
    federation.run(f"data.path={data / 'server'} pretrain=none rounds=5 output_dir={output}")
    wait_for(lambda: len(_lines(output)) >= 2)
    federation.kill("serverapp")
    federation.kill("node-1")
    finished = len(_lines(output))
    assert finished < 5

    federation.start_serverapp()
    federation.start_node(1, data / "node-1")
    federation.run(f"resume={output}")
    wait_for(lambda: (output / "summary.json").exists() or "finished" in federation.latest()["status"], pause=10)
    assert (output / "summary.json").exists(), federation.latest()
    assert [line["round"] for line in _lines(output)] == [1, 2, 3, 4, 5]
    assert all(line["cohort"] == [0, 1, 2] and "refused" not in line for line in _lines(output))
    expected = in_process(data, tmp_path / "in-process")
    for name, value in load_file(output / "checkpoint" / "weights.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6 * float(expected[name].abs().max()))

    assert stranger.poll() not in (None, 0) and not federation.says("node-3", "Receiving")
    assert federation.says("node-3", "Exit Code: 305")
    assert federation.says("superlink", "No SuperNode found with the given public key")


def test_a_sum_over_institutions_of_which_the_server_sees_no_summand(
    federation: Federation, data: Path, tmp_path: Path
) -> None:
    """With TLS, and a process a message: what a node remembers between the steps of a round outlives the process.

    One node's policy takes part in no other rounds.
    """
    output, secure = federation.folder / "outputs" / "secure", ("secure_aggregation=on", "guard.clip=2")
    policy = federation.folder / "nodes" / "0" / "policy.yaml"
    policy.write_text(policy.read_text() + "\nsecure: true\n")
    federation.start_superlink()
    federation.register(0, 1, 2)
    federation.start_serverapp()
    for node in range(3):
        federation.start_node(node, data / f"node-{node}")
    federation.run(f"data.path={data / 'server'} pretrain=none rounds=2 output_dir={output} {' '.join(secure)}")
    wait_for(lambda: (output / "summary.json").exists() or "finished" in federation.latest()["status"], pause=10)
    assert (output / "summary.json").exists(), federation.latest()
    assert all(line["cohort"] == [0, 1, 2] and "refused" not in line for line in _lines(output))
    expected = in_process(data, tmp_path / "in-process", *secure, "rounds=2")
    for name, value in load_file(output / "checkpoint" / "weights.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4 * float(expected[name].abs().max()))
    assert federation.says("node-0", "secure: True")
