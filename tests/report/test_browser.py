"""The page in a real Chromium: sorting, filters, no errors, no network, phones, and WCAG by axe-core."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.report import DOCUMENTS

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra lnbench[browser]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra lnbench[browser]")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # An empty profile of its own comes with it.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Tab:
    """The page in a tab, with all that it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab = browser.new_context(**options).new_page()
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.set_default_timeout(10_000)
        self.tab.goto(path.as_uri())

    def column(self, heading: str) -> list[str]:
        """The cells of the leaderboard's rows that are shown, in one column."""
        return self.tab.evaluate(
            """heading => {
                const cells = [...document.querySelectorAll('#board thead th')];
                const place = cells.findIndex(cell => cell.textContent === heading);
                const rows = [...document.querySelectorAll('#board tbody tr')].filter(row => row.checkVisibility());
                return rows.map(row => row.cells[place].textContent);
            }""",
            heading,
        )

    def choose(self, label: str, value: str) -> None:
        self.tab.get_by_role("search", name="Rows of the leaderboard").get_by_label(label).select_option(value)


@pytest.fixture
def open_tab(browser: Any, page: Path) -> Iterator[Any]:
    tabs: list[Tab] = []

    def opened(**options: Any) -> Tab:
        tabs.append(Tab(browser, page, **options))
        return tabs[-1]

    yield opened
    for one in tabs:
        one.tab.context.close()
        assert one.said == []
        assert [url for url in one.asked if not url.startswith("data:")] == [page.as_uri()]


def test_every_column_sorts_both_ways_by_keyboard(open_tab: Any) -> None:
    one = open_tab()
    headings = [text.removesuffix("Command") for text in one.tab.locator("#board thead th").all_text_contents()]
    for heading in filter(None, headings):
        button = one.tab.locator("#board thead").get_by_role("button", name=heading, exact=True)
        button.focus()
        for direction in ("ascending", "descending"):
            one.tab.keyboard.press("Enter")
            sorted_by = one.tab.locator("#board th[aria-sort]")
            assert sorted_by.count() == 1
            assert sorted_by.get_attribute("aria-sort") == direction
            assert sorted_by.text_content() == heading
            assert f"Sorted by {heading}, {direction}" in one.tab.locator("#said").text_content()


@pytest.mark.parametrize("heading", ["Change", "Value", "p, corrected"])
def test_numbers_sort_as_numbers_and_unknown_ones_last(heading: str, open_tab: Any) -> None:
    one = open_tab()
    found = {}
    for direction in ("ascending", "descending"):
        one.tab.locator("#board thead").get_by_role("button", name=heading, exact=True).click()
        cells = [cell.split()[0].rstrip("*") if cell.split()[0] != "<" else "0" for cell in one.column(heading)]
        known = [float(cell.replace("−", "-")) for cell in cells if cell != "–"]
        assert cells[len(known) :] == ["–"] * (len(cells) - len(known))
        assert 3 < len(known) < len(cells)
        found[direction] = known
    assert found["ascending"] == sorted(found["ascending"])
    assert found["descending"] == sorted(found["ascending"], reverse=True)


def test_text_sorts_as_text(open_tab: Any) -> None:
    one = open_tab()
    one.tab.locator("#board thead").get_by_role("button", name="Intervention", exact=True).click()
    cells = one.column("Intervention")
    assert cells == sorted(cells)
    assert len(set(cells)) == 4


def test_filters_narrow_the_leaderboard(open_tab: Any) -> None:
    one = open_tab()
    box = one.tab.get_by_role("search", name="Rows of the leaderboard")
    assert "Showing 19 of 19" in box.inner_text()
    one.choose("Language", "Hindi")
    assert set(one.column("Language")) == {"Hindi"}
    one.choose("Intervention", "zero-ablation")
    assert len(one.column("Language")) == 4
    assert "Showing 4 of 19" in box.inner_text()
    one.choose("Rows", "significant changes")
    assert [cell.split("*")[0] for cell in one.column("Change")] == ["−0.929"]
    box.get_by_role("button", name="Clear").click()
    assert len(one.column("Language")) == 19
    one.choose("Rows", "without controls")
    assert not [cell for cell in one.column("Neurons") if "random" in cell]
    box.get_by_label("Text").fill("URDU zero")
    assert (one.column("Language"), one.column("Intervention")) == (["Urdu"], ["zero-ablation"])
    box.get_by_label("Text").fill("nothing has this")
    assert one.column("Language") == []
    assert "Showing 0 of 19" in box.inner_text()


def test_samples_with_changed_answers_only(open_tab: Any) -> None:
    one = open_tab()
    box = one.tab.get_by_role("search", name="Samples")
    shown = one.tab.locator("#samples article:visible")
    assert shown.count() == 0, "the first task is open, and nothing changed in it"
    changed = box.get_by_label("Changed answers only")
    assert changed.is_checked() and "Showing 25 of 42" in box.inner_text()
    changed.uncheck()
    assert f"Showing {3 * DOCUMENTS} of {3 * DOCUMENTS}" in box.inner_text()
    changed.check()
    assert shown.count() == 13 + 12
    box.get_by_label("Language").select_option("ur")
    assert shown.count() == 12
    assert one.tab.locator("#samples details:visible").count() == 1
    urdu = shown.first.locator("p.text").first
    assert urdu.evaluate("one => getComputedStyle(one).direction") == "rtl"
    box.get_by_role("button", name="Clear").click()
    assert f"Showing {3 * DOCUMENTS} of {3 * DOCUMENTS}" in box.inner_text()


def test_a_command_is_copied(open_tab: Any) -> None:
    one = open_tab(permissions=["clipboard-read", "clipboard-write"])
    one.tab.locator("#commands summary").click()
    item = one.tab.locator("#command-1")
    command = item.locator("code").text_content()
    item.get_by_role("button", name="Copy").click()
    one.tab.get_by_role("button", name="Copied").wait_for()
    assert one.tab.evaluate("navigator.clipboard.readText()") == command


def test_no_sideways_scrolling_on_a_phone(open_tab: Any) -> None:
    one = open_tab(viewport={"width": 360, "height": 740})
    one.tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert one.tab.evaluate("document.documentElement.scrollWidth") <= 360
    hidden = one.tab.evaluate(
        """() => [...document.querySelectorAll('main p, main h1, main h2, main h3, main li, select, button')]
            .filter(one => one.checkVisibility() && !one.closest('.scroll')).map(one => one.getBoundingClientRect())
            .filter(box => box.left < 0 || box.right > innerWidth).length"""
    )
    assert hidden == 0


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_needs_no_scrolling(width: int, height: int, open_tab: Any) -> None:
    one = open_tab(viewport={"width": width, "height": height})
    for part in ("#findings h2", "#findings .sure >> nth=0", "#findings .sure >> nth=1", "#findings .hero img"):
        box = one.tab.locator(part).bounding_box()
        assert box["height"] > 10 and box["y"] >= 0 and box["y"] + box["height"] <= height, part


@pytest.mark.parametrize("width", [1280, 390])
def test_text_of_figures_is_large_enough_and_figures_fill_their_column(width: int, open_tab: Any) -> None:
    one = open_tab(viewport={"width": width, "height": 800})
    shown = one.tab.evaluate(
        """() => [...document.querySelectorAll('.paper img')].filter(one => one.checkVisibility()).map(one => {
            const drawing = atob((one.currentSrc || one.src).split('base64,')[1]);
            const fonts = [...drawing.matchAll(/font(?:-size)?: ?(?:[^;"']*? )?([0-9.]+)px/g)];
            const sizes = fonts.map(font => Number(font[1]));
            const points = Number(drawing.match(/viewBox="0 0 ([0-9.]+)/)[1]);
            const box = one.getBoundingClientRect();
            return {smallest: Math.min(...sizes) * box.width / points, width: box.width,
                    column: one.closest('figure').getBoundingClientRect().width};
        })"""
    )
    assert len(shown) >= 3
    for figure in shown:
        assert figure["smallest"] >= 11
        assert figure["width"] >= 0.95 * figure["column"]


def test_the_figure_is_switched(open_tab: Any) -> None:
    one = open_tab()
    assert one.tab.locator("#explored .explored:visible").count() == 1


def test_everything_can_be_read_without_javascript(open_tab: Any) -> None:
    one = open_tab(java_script_enabled=False)
    assert one.tab.locator("#board tbody tr:visible").count() == 19
    assert one.tab.locator(".filters:visible, .copy:visible, th button:visible").count() == 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_accessibility(scheme: str, width: int, open_tab: Any) -> None:
    one = open_tab(color_scheme=scheme, viewport={"width": width, "height": 800})
    one.tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = axe.Axe().run(one.tab, options=options).response
    assert len(found["passes"]) > 20
    told = [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:120]}" for one in found["violations"]]
    assert told == []
    assert found["testEngine"]["version"] >= "4.10"
