"""The gallery has every kind of figure, drawn as figures are drawn now, and stays small."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from lnbench.figures import style
from lnbench.figures.registry import FIGURES
from tests.docs.gallery import MADE_UP, PAGE, PICTURES, gallery, heading
from tests.support import docs_pages as docs

_AGAIN = "run: python -m tests.docs.gallery RUN…"
_MOST_BYTES = 1_500_000
_MOST_MADE_UP = 4


def test_every_kind_is_on_the_page_once() -> None:
    text = docs.read("topics/gallery.md")
    assert sorted(re.findall(r"^## (.+)$", text, re.MULTILINE)) == sorted(map(heading, FIGURES)), _AGAIN
    shown = re.findall(r"^!\[(.+)\]\(\.\./assets/gallery/(\w+)\.svg\)$", text, re.MULTILINE)
    assert sorted(kind for _, kind in shown) == sorted(FIGURES) == sorted(file.stem for file in PICTURES.iterdir())
    assert text.count(MADE_UP) <= _MOST_MADE_UP


def test_pictures_are_of_todays_style_and_small() -> None:
    for file in PICTURES.iterdir():
        root = ElementTree.parse(file).getroot()
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * style.WIDTH), _AGAIN
        assert len(list(root.iter("{http://www.w3.org/2000/svg}text"))) > 5
    assert sum(file.stat().st_size for file in PICTURES.iterdir()) < _MOST_BYTES


def test_a_kind_that_no_run_has_is_made_up() -> None:
    assert [is_measured for _, is_measured in gallery([]).values()] == [False] * len(FIGURES)
    assert PAGE.is_file()
