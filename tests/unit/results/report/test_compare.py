"""Runs are told apart by the fewest settings, and seeds are put together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import record

from fedrac.results.report import table
from fedrac.results.report.compare import Comparison, compare
from fedrac.results.report.runs import find


def compared(folder: Path) -> Comparison:
    return compare(find(folder, folder / "report")[0])


def test_the_fewest_keys_that_distinguish(tmp_path: Path) -> None:
    """What follows from another key is named as a difference, but is no key."""
    number = 0
    for name, fresh in (("FedAvg", False), ("Fed-RAC-LoRA", True)):
        for rank in (1, 2):
            number += 1
            config: dict[str, Any] = {"method__name": name, "method__fresh": fresh, "rank": rank}
            record(tmp_path / str(number), **config, adapt__layers={"*": rank}, data__path=f"/{number}", rounds=3)
    comparison = compared(tmp_path)
    assert comparison.keys == ["method.name", "rank"]
    assert list(comparison.differences) == ["method.name", "method.fresh", "rank", "adapt.layers.*"]
    labels = ["Fed-RAC-LoRA, rank 1", "Fed-RAC-LoRA, rank 2", "FedAvg, rank 1", "FedAvg, rank 2"]
    assert [group.label for group in comparison.groups] == labels


def test_numbers_are_in_order_and_missing_values_count(tmp_path: Path) -> None:
    for size in (100, 5, 20):
        record(tmp_path / str(size), cohort__size=size)
    assert [group.values["cohort.size"] for group in compared(tmp_path).groups] == [5, 20, 100]
    record(tmp_path / "old")
    assert [group.values["cohort.size"] for group in compared(tmp_path).groups] == [5, 20, 100, "—"]


def test_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    last = [0.5, 0.75, 0.9]
    for seed, accuracy in enumerate(last):
        record(tmp_path / str(seed), (0.25, accuracy), seed=seed)
    (row,) = table.rows(compared(tmp_path))
    assert row.runs == 3
    assert row.measured["test accuracy"].mean == pytest.approx(np.mean(last))
    assert row.measured["test accuracy"].sd == pytest.approx(np.std(last, ddof=1))
    assert "71.7 ± 20.2 %" in table.as_markdown(*table.cells([row]))


def test_a_repeated_run_counts_once(tmp_path: Path) -> None:
    """The one that went further."""
    record(tmp_path / "a", (0.5,), finished=False, rounds=3)
    record(tmp_path / "b", (0.25, 0.5, 1.0))
    comparison = compared(tmp_path)
    assert [run.name for run in comparison.runs] == ["b"]
    assert comparison.left_out == [("a", "the same settings and seed as b, which is used")]


def test_unfinished_runs_do_not_shift_a_mean(tmp_path: Path) -> None:
    record(tmp_path / "a", (0.5, 1.0), seed=1)
    record(tmp_path / "b", (0.25,), seed=2, rounds=2, finished=False)
    (row,) = table.rows(compared(tmp_path))
    assert (row.runs, row.measured["test accuracy"].mean, row.remark) == (1, 1.0, "1 of 2 unfinished, left out")
    record(tmp_path / "only/b", (0.25,), seed=2, rounds=2, finished=False)
    (row,) = table.rows(compared(tmp_path / "only"))
    assert (row.runs, row.remark) == (1, "unfinished: 1 of 2 rounds")


def test_a_run_that_diverged_is_named(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = record(tmp_path / str(seed), (0.5, 1.0) if seed == 1 else (0.25,), seed=seed, rounds=2)
        if seed == 2:
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(json.dumps({**summary, "diverged": True}))
    (row,) = table.rows(compared(tmp_path))
    assert (row.runs, row.measured["test accuracy"].mean) == (1, 1.0)
    assert row.remark == "1 of 2 diverged, after round 1"


def test_at_equal_bytes(tmp_path: Path) -> None:
    """The last value that was reached for what the most frugal uploads in all; none where that pays for no round."""
    record(tmp_path / "a", (0.25, 0.5), upload=10, method__name="Fed-RAC-LoRA")
    record(tmp_path / "b", (0.5, 0.75), upload=15, method__name="FedAvg")
    record(tmp_path / "c", (0.75, 1.0), upload=21, method__name="FLoRA")
    rows = {row.values["method"]: row for row in table.rows(compared(tmp_path))}
    at = {method: row.measured["test accuracy at 20 B"].mean for method, row in rows.items()}
    assert at == {"Fed-RAC-LoRA": 0.5, "FedAvg": 0.5, "FLoRA": pytest.approx(np.nan, nan_ok=True)}
    assert table.show_value(rows["FLoRA"].measured["test accuracy at 20 B"]) == "—"


def test_rounds_that_all_seeds_have(tmp_path: Path) -> None:
    record(tmp_path / "a", (0.25, float("nan"), 0.5), seed=1)
    record(tmp_path / "b", (0.5, 0.75, 1.0), seed=2)
    (group,) = compared(tmp_path).groups
    assert group.rounds("test/accuracy").tolist() == [1, 3]
    assert group.values_at("test/accuracy", group.rounds("test/accuracy")).tolist() == [[0.25, 0.5], [0.5, 1.0]]
    assert not len(group.rounds("test/mse"))


def test_a_csv_has_plain_numbers(tmp_path: Path) -> None:
    for seed in (1, 2):
        record(tmp_path / f"a{seed}", (seed / 4,), seed=seed, rank=1)
    record(tmp_path / "b", (0.5,), rank=2, method__name='a "quoted", name|')
    rows = table.rows(compared(tmp_path))
    header, first, last = table.as_csv(rows).splitlines()
    assert header.startswith("method,seeds,test accuracy mean,test accuracy sd,")
    assert first.startswith("Fed-RAC-LoRA,2,0.375,0.1767766953,")
    assert last.startswith('"a ""quoted"", name|",1,0.5,,')
    assert "name\\|" in table.as_markdown(*table.cells(rows))
