"""Foreign text and foreign numbers: what reaches logs, records and means is bounded, printable and finite."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedrac.algorithm.server import ServerSpec
from fedrac.monitoring.progress import Progress
from fedrac.monitoring.status import Status, read
from fedrac.protocol.client_evaluation import collect_metrics
from fedrac.protocol.node_values import LONGEST, line, unusable
from fedrac.protocol.replies import Refusal, is_late
from fedrac.protocol.round_replies import collect
from fedrac.protocol.round_report import RoundReport
from fedrac.results.record import Record

runs.grid()  # messages name the task of the process that makes them

FAKE = "\nround 9/9  test accuracy 100.0%\r\x1b[2K\x1b]0;title\x07\u202edesrever\u2028\x85\ud800 fine é 漢"


@given(st.text() | st.text(alphabet=FAKE, min_size=300))
def test_a_line_is_one_bounded_printable_line(text: str) -> None:
    shown = line(text)
    assert shown.isprintable() and len(shown) <= LONGEST
    assert line(shown) == shown
    if text.isprintable() and len(text) <= LONGEST:
        assert shown == text


def test_what_is_long_is_cut() -> None:
    assert line("x" * 10**7) == "x" * (LONGEST - 3) + "..."
    assert len(line("\x00" * 10**6, 64)) == 64


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1.7e308, -1e101])
def test_numbers_that_cannot_count(value: float) -> None:
    found = unusable("loss", np.array([0.0, value, 1e100]), 1e100, "sum")
    assert list(found) == [1] and found[1].endswith("is not finite")


def evaluated(*columns: dict[str, Any]) -> MetricRecord | None:
    """The means of what nodes 1, 2, ... answer, each asked for one client."""
    replies = []
    for node, values in enumerate(columns, 1):
        asked = Message(RecordDict(), node, "evaluate")
        reply = Message(RecordDict({"metrics": MetricRecord(values), "reply": ConfigRecord()}), reply_to=asked)
        reply.metadata.__dict__["_src_node_id"] = node
        replies.append(reply)
    found = collect_metrics(1, {node: [node] for node in range(1, len(columns) + 1)}, replies)
    return found and found.record()


GOOD = {"examples": [2.0], "loss": [3.0]}


@pytest.mark.parametrize(
    "bad",
    [
        {"examples": [1.0], "loss": [1.7e308]},
        {"examples": [1.0], "loss": [-1.7e308]},
        {"examples": [1.7e308], "loss": [1.0]},
        {"examples": [2.0**60], "loss": [1.0]},
        {"examples": [-5.0], "loss": [1.0]},
        {"examples": [1.0, 1.0], "loss": [1.0, 1.0]},
    ],
    ids=str,
)
def test_sums_beyond_all_bounds_end_no_run(bad: dict[str, Any]) -> None:
    """Two such answers overflow when they are added up; they are left out."""
    assert evaluated(bad, bad) is None
    assert evaluated(bad, GOOD, bad) == {"clients/loss": 1.5}


@pytest.mark.parametrize("name", ["a\nround 2", "\x1b[2J", "x" * 41, "Loss", "l o", ""])
def test_names_of_metrics_are_names(name: str) -> None:
    """Also where most nodes give them."""
    bad = {**GOOD, name: [1.0]}
    assert evaluated(bad, bad, GOOD) == {"clients/loss": 1.5}
    many = {**GOOD, **{f"m{number}": [1.0] for number in range(16)}}
    assert evaluated(many, many) is None


def lying(reason: str) -> runs.Tamper:
    """All clients of all but the last node say that they failed, and why."""

    def tamper(replies: list[Message]) -> list[Message]:
        for reply in replies[:-1]:
            clients = list(runs.clients_of(reply))
            meta = {"round": reply.content["reply"]["round"], "clients": [], "failed": clients, "kept": True}
            reply.content = RecordDict(
                {
                    "reply": ConfigRecord({**meta, "reasons": [reason] * len(clients)}),  # type: ignore[dict-item]
                    "metrics": MetricRecord(),
                }
            )
        return replies

    return tamper


def test_reasons_of_clients_are_one_line_wherever_they_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The log, the progress, the record, the status: megabytes and terminal codes arrive nowhere."""
    caplog.set_level(logging.INFO)
    strategy, reports = runs.strategy(server=ServerSpec(4, min_fraction=0.1)), []
    record, progress = Record(tmp_path, ""), Progress()
    progress.begin(strategy, 1, tmp_path, {})
    strategy.start(runs.TamperedGrid(lying(FAKE + "z" * 10**6)), runs.start(), 1, on_round=reports.append)
    with Status(tmp_path, 1, 0) as status:
        for told in (record.add, progress.round, status.round):
            told(reports[0])
    assert len(reports[0].refused) >= 1
    out = capsys.readouterr().out
    assert any("accuracy" in text for text in caplog.messages)
    assert all(text.startswith("round 1: node") for text in caplog.messages if "accuracy" in text)
    texts = [*out.splitlines(), *caplog.messages, *json.loads((tmp_path / "metrics.jsonl").read_text())["refused"]]
    assert all(text.isprintable() and len(text) < LONGEST + 100 for text in [*texts, *read(tmp_path)["refused"]])


def test_what_a_round_leaves_does_not_grow_with_what_nodes_say() -> None:
    """Of 300 nodes that fail, each with a reason of its own, 20 reasons stay; nobody is lost from the count."""
    report = RoundReport(1, list(range(300)), 1.0)
    collect(report, {node: [node] for node in range(300)}, [], {}, runs.torch.float32)
    assert len(report.refused) == 21
    assert sorted(client for refusal in report.refused for client in refusal.clients) == list(range(300))


def test_a_reason_does_not_make_a_divergence() -> None:
    """It is what the numbers are, not what a node says of them: a sweep counts a run that diverged as finished."""
    assert not Refusal([1], "raised something that is not finite").diverged


def test_a_changed_answer_is_not_taken_for_a_late_one() -> None:
    reply = Message(RecordDict({"reply": ConfigRecord({"round": 3})}), reply_to=Message(RecordDict(), 1, "train"))
    assert [is_late(copy.copy(reply), round_) for round_ in (3, 4, 2)] == [False, True, False]
