"""A host with another fedrac than the server does not work for it."""

import shutil
from pathlib import Path

import pytest
from flwr.app import Message, MessageType
from runs import grid, strategy, workload

from fedrac.flower.host import Host
from fedrac.protocol import code_digest
from fedrac.protocol.connected_clients import ConnectedClients, encode_question


def test_the_digest_is_that_of_the_code_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "elsewhere" / "fedrac"
    shutil.copytree(Path(code_digest.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digest, "__file__", str(package / "protocol" / "code_digest.py"))
    assert code_digest.digest.__wrapped__() == code_digest.digest()
    (package / "notes.txt").write_text("no code")
    assert code_digest.digest.__wrapped__() == code_digest.digest()
    (package / "local.py").write_text("")
    assert code_digest.digest.__wrapped__() != code_digest.digest()


def test_the_server_says_which_code_it_runs() -> None:
    assert strategy().workload["code"] == code_digest.digest()
    Host(strategy().workload, 0, 1)


def test_a_host_with_other_code_says_where_it_is() -> None:
    population = ConnectedClients(workload(code="another"), 1.0)
    with pytest.raises(RuntimeError, match=r"node 1 cannot serve: ValueError: fedrac on .+ is not the server's"):
        population.refresh(grid())


def test_a_missing_file_is_told_with_its_path_and_the_machine() -> None:
    data = {"_target_": "fedrac.data.mnist.idx", "path": "/nowhere/mnist"}
    question = Message(encode_question(workload(data=data)), 1, MessageType.QUERY)
    (answer,) = grid().send_and_receive([question])
    reason = str(answer.content.config_records["error"]["reason"])
    assert "there is no folder /nowhere/mnist" in reason and reason.endswith(")") and "(on " in reason
