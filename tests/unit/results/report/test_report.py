"""The files of a report: complete, self-contained, and drawn for whatever runs there are."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from recorded import found, record

from fedrac.cli import commands
from fedrac.results import report
from fedrac.results.report import style, table
from fedrac.results.report.compare import METHODS, compare
from fedrac.results.report.draw import panels
from fedrac.results.report.runs import find


class Page(HTMLParser):
    """Checks that every element is closed, and keeps text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.attributes, self.tags = "", [("", "")], [""]
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, Any]]) -> None:
        self.attributes += attrs
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_a_report_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("Fed-RAC-LoRA", "<b>& mine"):
        for seed in (1, 2):
            folder = record(tmp_path / f"{method[0]}{seed}", method__name=method, seed=seed, partition__scheme="iid")
            np.savez(folder / "clients.npz", labels=np.array([[3, 1], [0, 4]]))
    (tmp_path / "stray").write_text("")
    assert commands.run("report", [str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Fed-RAC-LoRA" in said and "1 files or folders were left out" in said
    output = tmp_path / "report"
    page = Page((output / "report.html").read_text())
    assert "<b>& mine" in page.text and "stray" in page.text and "75.0 ± 0.0 %" in page.text
    assert page.tags.count("svg") == 3 * 3 + 1 and "link" not in page.tags and "img" not in page.tags
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    names = {value for name, value in page.attributes if name == "id"}
    assert all(link.startswith("data:image/png;base64,") or link[1:] in names for link in links)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids), "figures share a name"
    drawn = {path.name for path in (output / "figures").iterdir()}
    names = [
        f"{m}_by_{x}"
        for m in ("test_accuracy", "test_loss", "train_loss")
        for x in ("round", "upload_bytes", "seconds")
    ]
    assert drawn == {f"{name}.{kind}" for name in [*names, "clients_1"] for kind in ("svg", "png")}
    tables = {f"{name}.{kind}" for name in ("table", "best", "differences", "runs") for kind in ("csv", "md", "tex")}
    assert {path.name for path in output.iterdir()} == {"report.html", "figures", *tables}
    before = (output / "report.html").read_text()
    report.write(tmp_path, output)
    assert (output / "report.html").read_text() == before


def test_runs_that_are_hard_to_draw(tmp_path: Path) -> None:
    """One round; never finite; a value of zero on a logarithmic axis; no metrics in common; names that are paths."""
    record(tmp_path / "one", (0.5,), rank=1, finished=False)
    record(tmp_path / "two", (float("nan"), float("nan")), rank=2, finished=False)
    record(tmp_path / "three", (1.0, 0.0), rank=3, upload=0)
    record(tmp_path / "four", (1.0 - 1e-9, 0.5), rank=4, upload=10**9, model__path="a/b")
    written = report.write(tmp_path, tmp_path / "out")
    assert len(written.table) == 5 and written.skipped == 0
    Page(written.page.read_text())


def test_nothing_to_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"has no run with a finished round.*\n  \.: config\.yaml is missing"):
        report.write(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_many_groups_are_divided_into_panels(tmp_path: Path) -> None:
    """Each has one line a method, which has the same look in all of them."""
    for method in METHODS[:3]:
        for rank in (1, 2, 3):
            record(tmp_path / f"{method}{rank}", (0.5,), method__name=method, rank=rank)
    drawn = panels(compare(find(tmp_path, tmp_path / "report")[0]))
    assert [panel.title for panel in drawn] == ["rank 1", "rank 2", "rank 3"]
    assert all(list(panel.labels) == list(METHODS[:3]) for panel in drawn)
    assert all(panel.styles == drawn[0].styles for panel in drawn)
    assert len({str(look) for look in drawn[0].styles}) == 3


def test_lines_can_be_told_apart() -> None:
    for labels in (["a", "b", "FedAvg", *METHODS[2:]], list(range(9)), [str(i) for i in range(28)]):
        looks = style.styles(labels)
        assert len({(str(look["color"]), look["linestyle"]) for look in looks}) == len(labels)
    assert style.styles(["FedAvg"]) == [style.styles(list(METHODS))[METHODS.index("FedAvg")]]


def drawn_band(values: Any) -> Any:
    figure = Figure()
    axes = figure.add_subplot()
    style.band(axes, [1, 2], values, "label", color="red")
    return axes


def test_a_band_is_the_mean_and_one_deviation() -> None:
    axes = drawn_band([[1.0, 2.0], [3.0, 6.0]])
    assert axes.lines[0].get_ydata().tolist() == [2.0, 4.0]
    corners = {tuple(map(float, point)) for point in axes.collections[0].get_paths()[0].vertices}
    root = 2**0.5
    expected = [(1, 2 - root), (1, 2 + root), (2, 4 - 2 * root), (2, 4 + 2 * root)]
    assert all(any(np.allclose(corner, point) for corner in corners) for point in expected)
    assert not drawn_band([1.0, 2.0]).collections


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3.65e6, "3.65 MB"), (2e10, "20 GB")]
)
def test_bytes(count: float, text: str) -> None:
    assert style.show_bytes(count) == text


def test_figures_have_words(tmp_path: Path) -> None:
    """Axes with names and units, also as text that a search finds in the page."""
    record(tmp_path)
    page = report.write(tmp_path, tmp_path / "report").page.read_text()
    assert re.search(r'aria-label="Test accuracy over bytes uploaded"', page)
    assert ">test accuracy</text>" in page and ">uploaded by all clients</text>" in page


def test_what_clients_found_and_the_best_rounds_have_tables_and_a_figure(tmp_path: Path) -> None:
    for seed, worst in ((1, 0.1), (2, 0.3)):
        record(tmp_path / str(seed), (0.25, 0.75, 0.5), seed=seed, tested=found([worst, *[0.9] * 19]))
    output = report.write(tmp_path, tmp_path / "report").page.parent
    clients = (output / "clients.csv").read_text().splitlines()
    values = dict(zip(clients[0].split(","), clients[1].split(","), strict=True))
    assert (values["seeds"], values["clients mean"]) == ("2", "20")
    assert float(values["accuracy: worst 10 % mean"]) == pytest.approx((0.5 + 0.6) / 2)
    assert float(values["accuracy: mean mean"]) == pytest.approx(0.9 - 0.7 / 20)
    assert "75.0 ± 0.0 % | 2 |" in (output / "best.md").read_text()
    assert (output / "figures" / "clients_by_accuracy.svg").exists()
    assert "worst 10 %" not in (output / "table.md").read_text(), "spreads have a table of their own"


def test_a_damaged_record_of_clients_costs_no_run(tmp_path: Path) -> None:
    record(tmp_path / "run", tested=found([0.5]))
    (tmp_path / "run/clients.parquet/round-00000003.parquet").write_bytes(b"PAR1 no")
    (run,), skipped = find(tmp_path, tmp_path / "report")
    assert not skipped and run.remarks == ["clients.parquet cannot be read"] and not run.tested


def test_latex_has_nothing_that_latex_takes_for_a_command(tmp_path: Path) -> None:
    text = table.as_latex(["key_1 & more", "accuracy"], [["50 % of #1 {x} ~^\\", "1 ± 2"]], 1)
    assert text.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"key\_1 \& more & accuracy \\",
        r"\midrule",
        r"50 \% of \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} & 1 $\pm$ 2 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_markers_are_on_the_tested_rounds_and_tell_methods_apart(tmp_path: Path) -> None:
    for method in METHODS:
        record(tmp_path / method, (0.5,), method__name=method)
    (panel,) = panels(compare(find(tmp_path, tmp_path / "report")[0]))
    assert (
        len({look["marker"] for look in panel.styles}) == len({look["color"] for look in panel.styles}) == len(METHODS)
    )
    figure = Figure()
    axes = figure.add_subplot()
    style.band(axes, range(7), np.zeros(7), "few", marker="o")
    style.band(axes, range(100), np.zeros(100), "many", marker="o")
    assert [line.get_markevery() for line in axes.lines] == [1, 5]


def test_simulated_time_is_an_axis_where_all_runs_have_it(tmp_path: Path) -> None:
    for seed in (1, 2):
        record(tmp_path / str(seed), seed=seed, simulated=(2.0, 3.0, 4.0))
    output = report.write(tmp_path, tmp_path / "report").page.parent
    assert (output / "figures" / "test_accuracy_by_simulated_seconds.svg").exists()
    assert "9 s | 3 |" in (output / "table.md").read_text()
    record(tmp_path / "3", seed=3)
    output = report.write(tmp_path, tmp_path / "report").page.parent
    assert not (output / "figures" / "test_accuracy_by_simulated_seconds.svg").exists()
