"""The site: built without a warning, whole without a network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

import lnbench
from docs.generator.mathml import on_page_content
from tests.docs.test_complete import CONTRACTS, HOOKS
from tests.support import docs_pages as docs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``mkdocs build --strict`` does; a warning, as of a page that is in no menu, is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(docs.ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


def read_page(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def test_every_page_is_on_it(site: Path) -> None:
    pages = {docs.name(page).removesuffix(".md") for page in docs.PAGES[1:]}
    assert pages <= {str(file.relative_to(site).with_suffix("")) for file in site.rglob("*.html")}
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched(site: Path) -> None:
    fetched = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*href=["']?http"""
    )
    for file in site.rglob("*.html"):
        assert not fetched.search(file.read_text(encoding="utf-8")), file
    for file in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )['\"]?http", file.read_text(encoding="utf-8")), file


def test_docstrings_are_on_it(site: Path) -> None:
    python, hooks = (read_page(site, f"reference/{page}.html") for page in ("python", "hooks"))
    for name in set(lnbench.__all__) - {"__version__"}:
        assert re.search(rf'<h\d id="[\w.]*\b{name}"', python), name
    for name in (*HOOKS, *CONTRACTS):
        assert re.search(rf'<h\d id="[\w.]*\b{name}"', hooks), name


def test_formulas_are_drawn_by_the_browser(site: Path) -> None:
    text = read_page(site, "topics/method.html")
    assert text.count("<math") == text.count('class="formula"') > 5
    assert "arithmatex" not in text


def test_the_search_finds_what_pages_say(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    found = [entry["location"] for entry in index["docs"] if "Activation Probability Entropy" in entry["text"]]
    assert any(location.startswith("topics/method.html") for location in found)


@pytest.fixture(scope="module")
def tab(site: Path) -> Iterator[Any]:
    """A page of the site in Chromium, opened from the folder, with all that it complained of and asked for."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra lnbench[browser]")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox"])
        tab = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        tab.said, tab.asked = [], []
        tab.on("console", lambda message: tab.said.append(message.text))
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.on("request", lambda request: tab.asked.append(request.url))
        yield tab
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("page", ["index.html", "topics/figures.html"])
def test_the_search_needs_no_server(page: str, site: Path, tab: Any) -> None:
    tab.goto((site / page).as_uri())
    tab.click("input.md-search__input")
    tab.keyboard.type("entropy")
    tab.wait_for_function("document.querySelector('.md-search-result__meta').innerText.match(/^[1-9]\\d* match/)")
    links = tab.eval_on_selector_all(".md-search-result__link", "links => links.map(link => link.href)")
    assert any("topics/method.html" in link and Path(link.split("?")[0][7:].split("#")[0]).exists() for link in links)
    assert tab.said == [] and not [url for url in tab.asked if not url.startswith("file:")]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_diagram_of_the_home_page_is_whole(width: int, site: Path, tab: Any) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto((site / "index.html").as_uri())
    cut = "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth + 1).length"
    assert tab.eval_on_selector_all("pre, pre code", "boxes => boxes.length") >= 2
    assert tab.eval_on_selector_all("pre, pre code", cut) == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_formula_becomes_mathml() -> None:
    inline = on_page_content(r'<p>of <span class="arithmatex">\(a_1 &lt; b\)</span></p>')
    assert inline.startswith('<p>of <span class="formula"><math') and 'display="inline"' in inline
    assert "&lt;" in inline or "&#x0003C;" in inline
    assert 'display="block"' in on_page_content('<div class="arithmatex">\\[\nx^2\n\\]</div>')
