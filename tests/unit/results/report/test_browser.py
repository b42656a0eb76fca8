"""The report in a real browser, on a wide and a narrow screen, light and dark.

It needs Playwright and a Chromium: Playwright's own, or one of the system (``apt install chromium``).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import found, record

from fedrac.results import report

playwright = pytest.importorskip("playwright.sync_api")
SYSTEM = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
WIDTHS = (1400, 420)

# Every text that is seen: its size in pixels, and whether it lies outside the picture that it belongs to.
TEXTS = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement, words = walker.currentNode.textContent.trim();
    if (!words || ["SCRIPT", "STYLE"].includes(parent.tagName) || !parent.checkVisibility()) continue;
    const svg = parent.closest("svg"), box = parent.getBoundingClientRect();
    const scale = svg ? svg.getScreenCTM().a : 1, frame = svg && svg.getBoundingClientRect();
    const out = svg && (box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
    found.push({words, size: parseFloat(getComputedStyle(parent).fontSize) * scale, out: Boolean(out)});
  }
  return found;
}"""
SCROLLS = """() => [...document.querySelectorAll(".scroll")].filter((each) => each.checkVisibility()).map((each) => ({
  wide: each.scrollWidth > each.clientWidth + 1, hint: each.nextElementSibling.checkVisibility()}))"""
BROKEN = """() => [...document.querySelectorAll("td.key:not(.wrap)")].filter((each) => each.checkVisibility()
  && each.firstChild && (() => { const range = document.createRange(); range.selectNodeContents(each);
    return range.getClientRects().length > 1; })()).map((each) => each.textContent)"""
CONTRAST = """() => {
  const light = (colour) => { const [r, g, b] = colour.match(/[0-9.]+/g).map(Number); return r + g + b; };
  const text = [...document.querySelectorAll("svg text")].map((each) => light(getComputedStyle(each).fill));
  const page = getComputedStyle(document.body);
  return {ink: light(page.color), paper: light(page.backgroundColor), text: [...new Set(text)]};
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods at two ranks, three seeds, clients and labels; a name that is long, and keys that are."""
    folder = tmp_path_factory.mktemp("a_sweep_of_methods_and_ranks_with_a_name_that_is_long")
    labels = np.random.default_rng(0).poisson(3, (120, 10))
    for method in ("Fed-RAC-LoRA", "FedAvg", "FLoRA", "FedEx-LoRA"):
        for rank, seed in ((1, 1), (1, 2), (1, 3), (4, 1)):
            run = record(
                folder / f"{method}_{rank}_{seed}",
                (0.3, 0.5, 0.6 + rank / 20),
                upload=1000 if method == "FedAvg" else 10 * rank,
                tested=found(np.linspace(0.1, 0.9, 30).tolist()),
                method__name=method,
                rank=rank,
                seed=seed,
                partition={"scheme": "dirichlet", "alpha": 0.5},
                adapt__layers__encoder_attention_output_projection=f"a_value_without_any_space_in_it_{rank}",
            )
            np.savez(run / "clients.npz", labels=labels)
    return report.write(folder, folder / "report").page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=SYSTEM[0] if SYSTEM else None, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"there is no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_is_legible(page_file: Path, browser: Any, width: int, scheme: str) -> None:
    page, said = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.wait_for_function("document.querySelectorAll('.scroll').length > 0")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    texts = page.evaluate(TEXTS)
    assert len(texts) > 300 and {"round", "Fed-RAC-LoRA, rank 1"} <= {text["words"] for text in texts}
    assert not [text for text in texts if text["size"] < 11]
    assert not [text for text in texts if text["out"]]
    assert not page.evaluate(BROKEN), "keys are broken into lines"
    scrolls = page.evaluate(SCROLLS)
    assert [each["wide"] for each in scrolls] == [each["hint"] for each in scrolls]
    assert any(each["wide"] for each in scrolls) or width > 1000
    colours = page.evaluate(CONTRAST)
    assert abs(colours["ink"] - colours["paper"]) > 500 and colours["text"] == [colours["ink"]]
    assert (colours["paper"] < 200) == (scheme == "dark")
    assert said == []
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_picture_can_be_seen_larger(page_file: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(page_file.as_uri())
    small = page.locator(".picture svg").first.bounding_box()
    assert not page.locator("dialog").is_visible()
    page.locator(".picture").first.click()
    large = page.locator("dialog svg").bounding_box()
    assert large["width"] > 1.5 * small["width"]
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.close()
