"""What the benchmarks time against one another is the same work."""

import json
import time

import pytest
import torch

from benchmarks import markdown, profile, report
from benchmarks.series import Series
from benchmarks.sides import loop, ours
from benchmarks.workloads import WORKLOADS


@pytest.mark.parametrize("case", ["check-mlp", "check-encoder", "check-texts"])
def test_the_plain_loop_agrees_with_ours(case: str) -> None:
    workload = WORKLOADS[case]
    sides = [module.Side(workload, "cpu") for module in (ours, loop)]
    for side in sides:
        times = side.run(2)
        assert len(times) == 3 and times == sorted(times)
    start, fedrac, plain = workload.build().state_dict(), sides[0].weights(), sides[1].weights()
    for name in plain:
        torch.testing.assert_close(fedrac[name] - start[name], plain[name] - start[name], rtol=1e-3, atol=1e-6)
        assert not torch.equal(plain[name], start[name])


def test_unequal_clients_all_have_an_example() -> None:
    sizes = [len(shard) for shard in WORKLOADS["check-mlp"].shards]
    assert sum(sizes) == WORKLOADS["check-mlp"].examples and min(sizes) >= 1 and max(sizes) > min(sizes)


def test_the_pages_show_what_was_measured() -> None:
    found = json.loads(markdown.RESULTS.read_text())
    for path, text in ((markdown.PAGE, markdown.tables(found)), (markdown.README, markdown.short_table(found))):
        page = path.read_text()
        assert markdown.updated(page, text) == page


def test_the_short_table_has_the_rows_of_the_ordinary_case() -> None:
    found = json.loads(markdown.RESULTS.read_text())
    rows = markdown.short_table(found).split("\n\n")[0].splitlines()[2:]
    sides = {one["name"] for one in found["series"] if one["name"].startswith("W1 ")}
    assert len(rows) == len(sides - {"W1 floor"}) > 3
    assert all(f"| W1 {row}\n" in markdown.tables(found) for row in rows)


def test_tables_stand_between_the_marks_and_nowhere_else() -> None:
    found = json.loads(markdown.RESULTS.read_text())
    page = markdown.updated(f"before\n{markdown.BEGIN}old\n{markdown.END}\nafter\n", markdown.tables(found))
    assert page.startswith(f"before\n{markdown.BEGIN}| workload") and page.endswith(f"{markdown.END}\nafter\n")
    assert "old" not in page
    with pytest.raises(ValueError, match="no lines"):
        markdown.updated("no marks", "text")


def test_every_part_of_a_round_is_seen_by_the_profile() -> None:
    found = [profile.profile(case, 1, time.perf_counter)[0] for case in ("check-mlp", "check-encoder")]
    assert found[0].keys() | found[1].keys() == {part for part, _, _ in profile.PARTS} | {profile.REST}


def test_parts_of_a_profile_add_up_to_the_whole() -> None:
    now = iter(range(0, 100, 2))
    watch = profile.Stopwatch(lambda: float(next(now)))
    inner = watch.timed("inner", lambda: None)
    watch.timed("outer", lambda: [inner(), inner()])()
    assert watch.seconds == {"inner": 4.0, "outer": 6.0}


def test_shares_and_goals_are_those_of_the_medians() -> None:
    rounds = {"ours": [[0.02, 0.03, 0.04], [0.05]], "floor": [[0.006], [0.004, 0.01, 0.008]], "loop": [[0.6], [0.4]]}
    sides = [Series("W1", f"W1 {side}", first=[1.0], seconds=seconds) for side, seconds in rounds.items()]
    found = {(one.group, one.name): one for one in sides}
    shares, results = report.frozen_share(found), {one["goal"]: one for one in report.goals(found, [3.0, 7.0, 2.0])}
    assert shares == {"W1": pytest.approx(0.007 / 0.04)}
    faster = results["W1, plain loop / in process"]  # 0.6 / 0.03 and 0.4 / 0.05
    assert (faster["value"], faster["low"], faster["high"], faster["met"]) == (*map(pytest.approx, (14, 8, 20)), True)
    assert results["shell to first round of the default (s)"]["value"] == 3.0
    text = report.table(sides, list(results.values()), shares)
    assert "W1: products with the frozen weights are 18% of a round" in text and "NOT met" in text


def test_whole_runs_of_language_models_have_goals_and_rows() -> None:
    run = {"bytes written a round": 250.0, "bytes up of a client": 100}
    ours = {"seconds a round": 4.0, "peak private MB": 1300, **run}
    found = {"W6": {"ours": ours, "peft": {"seconds a round": 8.0, "peak private MB": 1000}}}
    results = report.goals({}, [], found)
    assert [one["value"] for one in results] == [0.5, 1.3, 2.5] and all(one["met"] for one in results)
    (large,) = report.goals({}, [], {"W7": {"ours": {**ours, "peak private MB": 9100}}})
    assert (large["value"], large["met"]) == (9.1, False)
    about = {"options": {"repetitions": 1}, "machine": json.loads(markdown.RESULTS.read_text())["machine"]}
    page = markdown.tables({"series": [], "results": results, "language_models": found, **about})
    assert "| W6 | fedrac, in process | 4.0 s | 2.00 |  | 1,300 MB |  |" in page
    assert f"| W6 | {markdown.WHO['peft']} | 8.0 s | 1.00 |  | 1,000 MB | 2 |" in page
