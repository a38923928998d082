"""The site: built without a warning, whole without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path

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


def test_a_formula_becomes_mathml() -> None:
    inline = on_page_content(r'<p>of <span class="arithmatex">\(a_1 &lt; b\)</span></p>')
    assert inline.startswith('<p>of <span class="formula"><math') and 'display="inline"' in inline
    assert "&lt;" in inline or "&#x0003C;" in inline
    assert 'display="block"' in on_page_content('<div class="arithmatex">\\[\nx^2\n\\]</div>')
