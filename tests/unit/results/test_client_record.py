"""What each client found lies on disk once, whenever the run was stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from fedrac.protocol.client_evaluation import ClientMetrics, spread
from fedrac.protocol.round_report import RoundReport
from fedrac.results import client_record
from fedrac.results.record import Record


def found(round_: int, accuracies: list[float]) -> ClientMetrics:
    values = np.array(accuracies)
    examples = np.arange(1.0, len(values) + 1)
    metrics = {"accuracy": values, "loss": 1 - values}
    return ClientMetrics(round_, np.arange(len(values)) * 3, examples, metrics, {})


def add(record: Record, round_: int, **changes: Any) -> None:
    record.add(RoundReport(round_, [0], 1.0, train_loss=1.0, tested=found(round_, [0.5, round_ / 10]), **changes))


def rows(folder: Path) -> list[tuple[int, int, int, float]]:
    """As any program reads them."""
    frame = pandas.read_parquet(folder / "clients.parquet")
    assert list(frame.columns) == ["round", "client", "examples", "accuracy", "loss"]
    return [tuple(row) for row in frame[["round", "client", "examples", "accuracy"]].itertuples(index=False)]


def test_a_row_for_each_client_and_tested_round(tmp_path: Path) -> None:
    record = Record(tmp_path, "")
    for round_ in (2, 10):
        record.add(RoundReport(round_ - 1, [0], 1.0))
        add(record, round_)
    expected = [(2, 0, 1, 0.5), (2, 3, 2, 0.2), (10, 0, 1, 0.5), (10, 3, 2, 1.0)]
    assert rows(tmp_path) == expected
    columns = client_record.read(tmp_path)
    assert columns is not None and columns["round"].tolist() == [2, 2, 10, 10]


class Crash(BaseException):
    pass


@pytest.mark.parametrize("finished", [0, 2, 3])
def test_rounds_that_are_done_again_are_not_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    """Killed between what clients found and the round's line, with an older checkpoint or none."""
    record = Record(tmp_path, "")
    for round_ in (1, 2, 3):
        add(record, round_)

    def die(_: Any) -> str:
        raise Crash

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr("fedrac.results.record.metrics_line", die)
        add(record, 4)
    (tmp_path / "clients.parquet" / ".round-00000005.parquet.1.part").write_text("cut off")
    (tmp_path / "metrics.jsonl").write_text("") if not finished else None
    again = Record(tmp_path, "", finished or None)
    assert sorted({row[0] for row in rows(tmp_path)} if finished else set()) == list(range(1, finished + 1))
    for round_ in range(finished + 1, 6):
        add(again, round_)
    assert [row[0] for row in rows(tmp_path)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_the_summary_has_the_last_tested_round_also_after_a_resume(tmp_path: Path) -> None:
    record = Record(tmp_path, "")
    add(record, 4)
    record.add(RoundReport(5, [0], 1.0))
    told = record.summarise("m", {})["clients"]
    assert Record(tmp_path, "", finished=5).summarise("m", {})["clients"] == told
    assert (told["round"], told["clients"]) == (4, 2)
    assert told["accuracy"]["mean"] == pytest.approx(0.45) and told["accuracy"]["worst10"] == 0.4
    counts = told["accuracy"]["histogram"]["counts"]
    assert sum(counts) == 2 and counts[4] == counts[5] == 1 and len(told["accuracy"]["histogram"]["edges"]) == 11


@pytest.mark.parametrize("clients", [1, 9, 20, 35])
def test_the_worst_tenth_is_that_of_the_sorted_clients(clients: int) -> None:
    values = np.random.default_rng(clients).permutation(clients) / clients
    few = max(1, clients // 10)
    assert spread("accuracy", values)["worst10"] == pytest.approx(np.arange(few).mean() / clients)
    assert spread("loss", values)["worst10"] == pytest.approx(np.arange(clients - few, clients).mean() / clients)
    assert spread("loss", values)["sd"] == pytest.approx(np.sqrt((clients**2 - 1) / 12) / clients)
