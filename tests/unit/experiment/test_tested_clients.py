"""Clients test the model: which of them, what is recorded of each, and what it costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from command import TINY, facts

import fedrac
from fedrac import data, models
from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.partition import partition
from fedrac.results import checkpoint


def made(folder: Path, *overrides: str, resume: bool = False) -> Any:
    where = f"resume={folder}" if resume else f"output_dir={folder}"
    settings = compose.load([*([] if resume else TINY), "rounds=4", *overrides, where])
    return run(settings, in_process(settings), folder), settings


def rows(folder: Path) -> pandas.DataFrame:
    return pandas.read_parquet(folder / "clients.parquet")


def test_every_client_s_loss_is_that_of_the_merged_model_on_its_examples(tmp_path: Path) -> None:
    _, settings = made(tmp_path / "run", "evaluate.on_clients=all")
    held = data.load(dict(settings.data))
    parts = partition.make(dict(settings.partition), held, settings.seed)
    model = models.build(dict(settings.model), settings.seed)
    model.load_state_dict(checkpoint.merged(tmp_path / "run")[0])
    last = rows(tmp_path / "run").query("round == 4")
    assert last.client.tolist() == [0, 1, 2, 3] and last.examples.tolist() == parts.sizes.tolist()
    for client, mse in zip(last.client, last.mse, strict=True):
        examples = held.train.take(parts.of(client))
        with torch.no_grad():
            errors = model(torch.tensor(examples.inputs)) - torch.tensor(examples.targets)
        assert mse == pytest.approx(errors.square().mean().item(), rel=1e-5)


def test_hosts_do_not_change_what_is_recorded_of_clients(tmp_path: Path) -> None:
    for hosts in (1, 3):
        made(tmp_path / str(hosts), "evaluate.on_clients=all", "runtime.dtype=float64", f"runtime.hosts={hosts}")
    one, three = rows(tmp_path / "1"), rows(tmp_path / "3")
    assert one[["round", "client", "examples"]].equals(three[["round", "client", "examples"]])
    np.testing.assert_allclose(one.to_numpy(float), three.to_numpy(float), rtol=1e-9)


def test_measuring_changes_neither_the_run_nor_its_bytes(tmp_path: Path) -> None:
    """Clients that a host simulates are tested where they are; with a cohort's own test a download is counted."""
    for wanted in ("false", "all", "2"):
        made(tmp_path / wanted, f"evaluate.on_clients={wanted}")
    plain = [json.loads(line) for line in (tmp_path / "false/metrics.jsonl").read_text().splitlines()]
    for wanted in ("all", "2"):
        found = [json.loads(line) for line in (tmp_path / wanted / "metrics.jsonl").read_text().splitlines()]
        for line, other in zip(plain, found, strict=True):
            assert {k: v for k, v in other.items() if k in line and k != "seconds"} == {
                k: v for k, v in line.items() if k != "seconds"
            }
    assert not (tmp_path / "false/clients.parquet").exists()


def test_so_many_clients_are_the_same_ones_in_all_rounds(tmp_path: Path) -> None:
    summary, _ = made(tmp_path / "run", "evaluate.on_clients=2")
    by_round = rows(tmp_path / "run").groupby("round").client.apply(tuple)
    assert by_round.index.tolist() == [2, 4] and len({*by_round}) == 1 and len(by_round.iloc[0]) == 2
    assert summary["clients"]["clients"] == 2
    assert summary["last"]["clients/worst10_mse"] >= summary["last"]["clients/mean_mse"]


def test_a_resumed_run_has_the_rows_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    made(tmp_path / "whole", "evaluate.on_clients=true", "evaluate.every=1")
    made(tmp_path / "cut", "evaluate.on_clients=true", "evaluate.every=1", "rounds=2")
    made(tmp_path / "cut", "rounds=4", resume=True)
    pandas.testing.assert_frame_equal(rows(tmp_path / "cut"), rows(tmp_path / "whole"))
    pandas.testing.assert_frame_equal(fedrac.load(tmp_path / "cut").clients, rows(tmp_path / "whole"))
    assert facts(str(tmp_path / "cut")) == facts(str(tmp_path / "whole"))


@pytest.mark.parametrize("wrong", ["0", "-1", "some"])
def test_who_tests_is_checked_before_work_starts(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match=r"evaluate\.on_clients"):
        made(tmp_path / "run", f"evaluate.on_clients={wrong}")
    assert not (tmp_path / "run").exists()
