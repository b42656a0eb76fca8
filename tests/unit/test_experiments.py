"""The tables and figures of the paper: how they are read off recorded runs, and what their configuration says."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments import __main__ as page
from experiments import (
    choose,
    communication,
    federated,
    federated_theory,
    few_numbers,
    mnist,
    movies,
    plots,
    recorded,
    regression,
    tfidf,
)
from fedrac.experiment import compose
from fedrac.experiment.settings import parse
from fedrac.results.report.runs import Run, read
from fedrac.theory.affine import convex_problem

ROOT = Path(__file__).parents[2]


def run(accuracies: Iterable[float], upload: int = 100, seed: int = 0, **settings: Any) -> Run:
    """A run that was evaluated every second round."""
    values = [value for accuracy in accuracies for value in (np.nan, accuracy)]
    rounds = np.arange(1.0, len(values) + 1)
    columns = {"round": rounds, "test/accuracy": np.array(values), "upload_bytes": np.full(len(values), float(upload))}
    columns["seconds"] = np.ones(len(values))
    given = {"method.name": "FLoRA", "method.side": "right", "local.lr": 0.1, **settings}
    return Run("run", {"seed": seed, "rounds": len(values), **given}, columns, {"test/accuracy": 0.2})


def test_accuracy_at_a_number_of_bytes_lies_on_the_curve() -> None:
    one = run([0.4, 0.8])  # 200 bytes: 0.4; 400 bytes: 0.8
    assert [federated.at_bytes(one, budget) for budget in (0, 100, 200, 300, 400)] == pytest.approx(
        [0.2, 0.3, 0.4, 0.6, 0.8]
    )
    assert np.isnan(federated.at_bytes(one, 500))


def test_a_level_is_reached_when_three_evaluations_hold_it() -> None:
    assert communication.reached(run([0.5, 0.98, 0.97, 0.975, 0.98])) == 4  # evaluated in every second round
    assert np.isnan(communication.reached(run([0.5, 0.98, 0.97, 0.97])))


def test_bytes_and_numbers_to_a_level() -> None:
    """A client's, of a cohort of 10; rounded uploads count the numbers of the whole ones."""
    sizes = {None: 4000, 4: 600}
    found = [
        run([0.5, 0.98, 0.98, 0.98], size, **{"method.name": "FedAvg", "upload.bits": bits, "cohort.size": 10})
        for bits, size in sizes.items()
    ]
    _, _, whole, few = communication._table(found).splitlines()
    assert whole == "| FedAvg | 100 | 0.4 k | 1.6 kB | 98.00 | 1 |"
    assert few == "| FedAvg, 4 bits | 100 | 0.4 k | 0.24 kB | 98.00 | 1 |"


def test_ratios_of_numbers_and_bytes() -> None:
    """Of FedAvg and of the best that is FedAvg to the two-sided sketch; none where a seed does not get there."""
    rows = (
        ("FedAvg", None, 4000, [0.5, 0.98, 0.98, 0.98]),
        ("FedAvg with every help", None, 4000, [0.98] * 4),
        ("FedAvg with every help", 1, 100, [0.5, 0.98, 0.98, 0.98]),
        ("Two-sided", None, 400, [0.98] * 4),
        ("Two-sided", 1, 10, [0.98] * 4),
    )
    found = [
        run(values, size, **{"method.name": name, "upload.bits": bits, "cohort.size": 10})
        for name, bits, size, values in rows
    ]
    numbers = "numbers to 97.5 %, FedAvg / Two-sided: 20; numbers to 97.5 %, FedAvg with every help / Two-sided: 10; "
    said = communication._ratios(found)
    assert said.startswith(numbers)
    assert said.endswith(
        "bytes to 97.5 %, FedAvg / Two-sided, 1 bit: 800; "
        "bytes to 97.5 %, FedAvg with every help, 1 bit / Two-sided, 1 bit: 20."
    )
    slow = run([0.5] * 4, 400, seed=1, **{"method.name": "Two-sided", "upload.bits": None, "cohort.size": 10})
    assert "Two-sided:" not in communication._ratios([*found, slow])


def test_the_mean_of_rounds_has_a_row_beside_the_last_model() -> None:
    one = run([0.5, 0.98, 0.98, 0.98], 4000, **{"method.name": "FedAvg", "upload.bits": None, "cohort.size": 10})
    one.columns["last/accuracy"] = one.columns["test/accuracy"] - 0.01  # type: ignore[index]
    _, _, mean, last = communication._table([one]).splitlines()
    assert mean == "| FedAvg | 100 | 0.4 k | 1.6 kB | 98.00 | 1 |"
    assert last == "| FedAvg, last round's model | 100 | - | - | 97.00 | 1 |"


def test_the_learning_rate_is_the_best_on_average() -> None:
    """Not the one with the best seed; a run that diverged counts as 0."""
    runs = [run([0.1, v], seed=s, **{"local.lr": lr}) for lr, pair in ((0.1, (0.5, 0.6)), (0.2, (0.9, 0.1)))
            for s, v in enumerate(pair)]  # fmt: skip
    assert choose.choices(runs) == {("FLoRA", "right"): 0.1}
    assert choose.choices([run([0.5], **{"local.lr": lr}) for lr in (0.3, 0.1, 0.2)]) == {("FLoRA", "right"): 0.1}
    stopped = [run([0.99], **{"local.lr": 0.3, "rounds": 50}), run([0.7, 0.7], seed=1, **{"local.lr": 0.3})]
    assert choose.scores(stopped) == {("FLoRA", "right", 0.3): pytest.approx(0.35)}


def test_a_division_has_its_own_learning_rate() -> None:
    def grid(*accuracies: float) -> list[Run]:
        return [run([value], **{"local.lr": rate}) for rate, value in zip((0.1, 0.2), accuracies, strict=True)]

    grids = {"IID": grid(0.5, 0.6), "Dirichlet 0.1": grid(0.4, 0.3)}
    first, second = federated.grid_tables(grids).split("Dirichlet 0.1:")
    assert "| FLoRA | 50.0 | **60.0** |" in first and "| FLoRA | **40.0** | 30.0 |" in second
    found = [run([0.7], **{"local.lr": rate, "seed": seed}) for rate in (0.1, 0.2) for seed in (1, 2)]
    assert federated.tuned(found, grids["IID"]) == found[2:]
    assert federated.tuned([*found, run([0.7], rounds=9, **{"local.lr": 0.1})], grids["Dirichlet 0.1"]) == found[:2]
    assert federated.tuned(found, []) == []


def test_what_was_chosen_is_one_sweep_a_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, side, rate, accuracy in (
        ("fedavg", "left", 0.01, 0.9),
        ("fedavg", "left", 0.1, 0.8),
        ("fed_rac_lora", "left", 0.01, 0.5),
        ("flora", "right", 0.1, 0.7),
    ):
        recorded_run(
            tmp_path / f"{method}{rate}", accuracy, f"method={method}", f"method.side={side}", f"local.lr={rate}"
        )
    choose.main(tmp_path)
    first, second = sorted(capsys.readouterr().out.splitlines())
    assert first.split()[0] == "0.01-left" and set(first.split()[1:]) >= {"method.side=left", "local.lr=0.01"}
    assert {"fedavg", "fed_rac_lora"} == set(first.split()[1].removeprefix("method=").split(","))
    assert second == "0.1-right method=flora method.side=right local.lr=0.1"


def recorded_run(folder: Path, accuracy: float, *overrides: str) -> None:
    """The files of a run of one round."""
    folder.mkdir(parents=True)
    settings = compose.load([*overrides, "rounds=1", f"output_dir={folder}"])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(settings))
    line = {"round": 1, "seconds": 1.0, "upload_bytes": 40, "download_bytes": 40, "test/accuracy": accuracy}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    summary = {"rounds": 1, "diverged": False, "initial": {"test/accuracy": 0.2}}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_iterations_between_two_gaps_count_parts_of_a_round() -> None:
    """A gap that falls by 10 a round is at 10^-k in round k, also between rounds."""
    rounds = np.arange(9.0)
    for level, at in ((1e-3, 3), (10**-3.5, 3.5), (1e-8, 8)):
        assert regression.crossing(rounds, 10.0**-rounds, level) == pytest.approx(at)
    assert np.isnan(regression.crossing(rounds, 10.0**-rounds, 1e-9))


def test_a_run_that_diverged_is_infinite_from_then_on() -> None:
    whole, short = (np.arange(5.0), np.arange(5.0)), (np.arange(2.0), np.array([0.0, 9.0]))
    rounds, (low, median, high) = recorded.quantiles([whole, short, short])
    assert rounds.tolist() == [0, 1, 2, 3, 4]
    assert low.tolist() == [0, 1, 2, 3, 4] and np.isinf(median[2:]).all() and np.isinf(high[2:]).all()


def test_a_run_that_diverged_before_it_was_evaluated_is_infinite_at_its_last_round() -> None:
    columns = {"round": np.arange(1.0, 3)}
    one = Run("one", {"seed": 0, "rounds": 9}, columns, {"train/objective": 3.0})
    rounds, gap = recorded.gaps(one, 1.0)
    assert rounds.tolist() == [0, 2] and gap.tolist() == [2, np.inf]


def test_the_step_of_the_counterexample_is_what_theory_says() -> None:
    experiment = parse(compose.load(["experiment=counterexample"]))
    assert experiment.local.lr == pytest.approx(1 / convex_problem(experiment).smoothness("f"), rel=1e-6)


def test_the_floor_is_taken_over_the_last_half(tmp_path: Path) -> None:
    recorded_run(tmp_path / "one", 0.5, "experiment=federated_theory")
    one = read(tmp_path / "one", "one")
    columns = {"round": np.arange(1.0, 9), "train/objective": np.array([9, 8, 7, 6, 5, 4, 3, 2.0])}
    curve = Run("one", {**one.config, "rounds": 8}, columns, {"train/objective": 10.0})
    assert federated_theory.floor(curve, 1.0) == pytest.approx(np.mean([5, 4, 3, 2]) - 1)


@pytest.mark.parametrize("path", sorted((ROOT / "conf/experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_a_valid_configuration(path: Path) -> None:
    parse(compose.load([f"experiment={path.stem}"]))


def test_the_page_is_written_whatever_there_is(tmp_path: Path) -> None:
    """A section without runs says so; Table 3 keeps the paper's numbers."""
    page.main(tmp_path / "nothing", tmp_path / "docs")
    text = (tmp_path / "docs/results.md").read_text()
    assert text.count("No run of this was found.") >= len(page.SECTIONS) - 1
    assert "| RAC-LoRA | Zero | Gaussian | - | 0 | 96.1 | - | 912 |" in text


def test_the_methods_of_the_tables_are_named_as_in_the_paper(tmp_path: Path) -> None:
    for method, name, side in (
        ("fed_rac_lora", "RAC-LoRA", "left"),
        ("fedavg_lora", "LoRA", "right"),
        ("fedavg", "FPFT", ""),
    ):
        recorded_run(tmp_path / method, 0.9, f"method={method}")
        assert mnist.kind(read(tmp_path / method, method)) == (name, side)
        assert (name, side) in {row[:2] for row in mnist.PAPER}


def test_the_table_is_of_models_pre_trained_as_long_as_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shorter pre-training has a row of its own, and does not get into the nine methods."""
    kinds = {"method.name": "AsymmLoRA", "method.side": "left", "rounds": 2}
    lengths = ((25, 50, 0.7), (25, 5, 0.9), (12.5, 50, 0.6))  # epochs of a block, of pre-training, accuracy
    found = [run([a], **kinds, **{"local.epochs": block, "pretrain.epochs": before}) for block, before, a in lengths]
    monkeypatch.setattr(mnist, "runs", lambda folder: found)
    page = mnist.table3(tmp_path, tmp_path)
    assert "| AsymmLoRA | Zero | Gaussian | 70.0 | 1 | 81.6 | -11.6 | 912 |" in page
    assert "| 5 epochs | 50 epochs | paper |" in page and "| 90.0 | 70.0 | 81.6 |" in page
    assert "| AsymmLoRA, left | 60.0 | 70.0 | 81.6 |" in page


def test_movies_are_compared_at_equal_rounds_and_at_equal_bytes(tmp_path: Path) -> None:
    """Those at equal bytes have runs of their own, but for the method that sets the number of bytes."""
    for place, method, accuracy in (
        ("rounds/one", "fed_rac_lora", 0.8),
        ("rounds/two", "fedavg", 0.7),
        ("bytes/two", "fedavg", 0.6),
        ("longer/one", "fed_rac_lora", 0.9),
        ("grid/two", "fedavg", 0.5),
    ):
        recorded_run(tmp_path / place, accuracy, "experiment=movies", f"method={method}", "local.lr=0.1")
    (tmp_path / "tfidf.txt").write_text("TF-IDF 75\n")
    text = movies.section(tmp_path, tmp_path)
    first, rest = text.split("At equal bytes")
    second, third = rest.split("In twice the rounds")
    ours, full = "| Fed-RAC-LoRA, left | 1 | 40 B | 1 | 80.0 |", "| FedAvg | 1 | 40 B | 1 | {} |"
    assert ours in first and ours in second and "TF-IDF 75" in first
    assert full.format("70.0") in first and full.format("60.0") in second
    assert ours.replace("80.0", "90.0") in third and "| FedAvg | **50.0** |" in third
    assert (tmp_path / "movies.svg").exists()


def test_words_alone_are_tested_on_movies_that_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that names the movie helps nobody: what is left is the word that is good or bad in all of them."""
    rows = [f"{'fresh' if i % 2 else 'rotten'},{'good' if i % 2 else 'bad'} title{i // 4},m{i // 4}" for i in range(80)]
    (tmp_path / "reviews.csv").write_text("\n".join(["category,text,movie_name", "plot,a plot,m1", *rows]))
    tfidf.main(str(tmp_path / "reviews.csv"))
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[:2]] == ["50.0", "100.0"]


def test_few_numbers_to_a_level_below_the_best_rank() -> None:
    """Of the mean over seeds; in bytes what was sent."""

    def of(name: str, accuracies: Iterable[float], size: int, seed: int, **settings: Any) -> Run:
        given = {"method.name": name, "rank": 4, "adapt.columns": None, "upload.bits": None, "cohort.size": 10}
        return run(accuracies, size, seed, **{**given, **settings})

    wide = {"rank": 8, "adapt.columns": 64}
    found = [
        *(of("FedAvg-LoRA", [0.5, high, 0.7], 40_000, seed) for seed, high in enumerate((0.7, 0.68))),
        *(of("Two-sided", [0.5, 0.5, 0.7], 4_000, seed, **wide) for seed in (0, 1)),
        of("Two-sided", [0.5, 0.5, 0.6], 500, 0, **wide, **{"upload.bits": 4}),
    ]
    text = few_numbers.part(found, found[:1])
    assert "| FedAvg-LoRA, rank 4 | 6 | 1,000 | 6 k | 24 kB | 70.0 ± 0.0 | 2 |" in text  # 0.69 is below 0.695
    assert "| Two-sided, (8, 64) | 6 | 100 | 1 k | 2.4 kB | 70.0 ± 0.0 | 2 |" in text
    assert "| Two-sided, (8, 64), 4 bits | 6 | 100 | - | - | 60.0 | 1 |" in text
    assert few_numbers.part([], []) == ""


def test_plots_are_those_with_a_text(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("category,text,movie_name\nfresh,good,a\nplot,,a\nplot,A dog.,b\n")
    plots.main(str(tmp_path / "all.csv"), str(tmp_path / "plots.csv"))
    assert (tmp_path / "plots.csv").read_text() == "category,text,movie_name\nplot,A dog.,b\n"
