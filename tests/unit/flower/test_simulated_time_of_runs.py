"""Simulated time in a run: it follows the bytes and examples, drops who is late, and is the same after a stop."""

from pathlib import Path
from typing import Any

import pytest
import runs
from command import TINY, facts, lines, weights
from runs import equal, methods, strategy

from fedrac.aggregation.guard import GuardSpec
from fedrac.algorithm.selection import SelectionSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.algorithm.simulated_time import LogNormal, SystemSpec
from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.protocol.round_report import CohortFailure


def server(size: int = 4, **system: Any) -> ServerSpec:
    return ServerSpec(size, min_fraction=0.25, system=SystemSpec(**system))


@pytest.mark.parametrize("send", ["seed", "matrix"])
@pytest.mark.parametrize("name", methods())
def test_at_a_byte_a_second_time_is_what_is_counted(name: str, send: Any) -> None:
    """For every method: what a client needs to catch up, and what it sends; now and then, and in every round."""
    for size in (1, runs.CLIENTS):
        if name in ("fedex_lora", "fedsa_lora") and size == 1:  # of one client nothing may be new
            continue
        for kind in ("download", "upload"):
            if kind == "upload" and methods()[name].has_ranks and size > 1:  # a round lasts as long as its slowest
                continue
            found = strategy(method=methods()[name], send_sketch=send, server=server(size, **{kind: 1.0}))
            for report in runs.train(found, rounds=8 if size == 1 else 3):
                assert report.simulated_seconds == getattr(report, f"{kind}_bytes") / size, report.round


def test_nobody_late_changes_nothing() -> None:
    plain, timed = strategy(server=ServerSpec(4)), strategy(server=ServerSpec(4, system=SystemSpec(speed=10.0)))
    runs.train(plain)
    reports = runs.train(timed)
    equal(timed.effective_weights(), plain.effective_weights())
    examples = timed.connected.examples
    assert [r.simulated_seconds for r in reports] == [max(examples[list(r.cohort)]) / 10 for r in reports]
    assert not any(report.late for report in reports)


def test_who_is_late_does_not_count() -> None:
    """Its weights are those of a round that only the others took part in; it has downloaded, and uploads nothing."""
    slow = SystemSpec(speed=1.0, deadline=12.0)  # clients have from few to many examples
    found = strategy(server=ServerSpec(6, min_fraction=0.1, system=slow))
    (report,) = runs.train(found, rounds=1)
    sizes = dict(zip(range(6), found.connected.examples, strict=True))
    late = [client for client, size in sizes.items() if size > 12]
    assert report.late == late and 0 < len(late) < 6 and report.simulated_seconds == 12.0
    assert report.clients == 6 - len(late) and not report.refused

    def away(replies: list[Any]) -> list[Any]:
        return [reply for reply in replies if runs.clients_of(reply)[0] not in late]

    other = strategy(server=ServerSpec(6, min_fraction=0.1))
    missing: list[Any] = []
    other.start(runs.TamperedGrid(away, 6), runs.start(), 1, on_round=missing.append)
    equal(found.effective_weights(), other.effective_weights(), 1e-12)
    assert report.upload_bytes == missing[0].upload_bytes and report.download_bytes == missing[0].download_bytes


def test_a_round_that_too_many_are_late_for_stops_the_run() -> None:
    found = strategy(server=server(speed=1.0, deadline=0.5))
    with pytest.raises(CohortFailure, match=r"0 of 4 clients answered well.*4 were later than system\.deadline"):
        runs.train(found, rounds=1)


def test_hosts_do_not_change_the_time() -> None:
    system = {"speed": LogNormal(10.0, 1.0), "download": LogNormal(1e4, 1.0), "deadline": 2.0, "jitter": 0.3}
    one, many = (runs.train(strategy(server=server(**system)), hosts, rounds=6) for hosts in (1, 5))
    told = [[(r.cohort, r.late, r.simulated_seconds) for r in reports] for reports in (one, many)]
    assert told[0] == told[1] and any(r.late for r in one)


def test_a_resumed_run_has_the_times_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    """Though its server does not know any more what its clients have."""
    system = ["system.speed={median: 10, sigma: 1.0}", "system.download=100", "system.deadline=1.9"]
    system += ["cohort.min_fraction=0.1", "cohort.selection=size", "cohort.available=0.8"]

    def made(name: str, *overrides: str) -> str:
        settings = compose.load(overrides)
        run(settings, in_process(settings), tmp_path / name)
        return str(tmp_path / name)

    whole = made("whole", *TINY, *system, "rounds=8", f"output_dir={tmp_path / 'whole'}")
    made("cut", *TINY, *system, "rounds=4", f"output_dir={tmp_path / 'cut'}")
    cut = made("cut", f"resume={tmp_path / 'cut'}", "rounds=8")
    assert facts(cut) == facts(whole)
    equal(weights(cut), weights(whole))
    assert sum(line["stragglers"] for line in lines(whole)) > 0
    assert {len(line["cohort"]) for line in lines(whole)} > {3}


def test_cohorts_that_are_not_uniform_do_not_go_with_a_guard() -> None:
    for selection, guard in (
        (SelectionSpec("size"), GuardSpec(clip=1.0)),
        (SelectionSpec(available=0.5), GuardSpec(clip=1.0, noise=1.0)),
    ):
        with pytest.raises(ValueError, match=r"cohort\.(selection=size|available=0\.5) with guard"):
            strategy(server=ServerSpec(2, min_fraction=0.5, selection=selection), guard=guard)
    strategy(server=ServerSpec(2, min_fraction=0.5, selection=SelectionSpec(available=0.5)), guard=GuardSpec(clip=1.0))
