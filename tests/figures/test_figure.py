"""Figures as files and in pages: every format, the same bytes each time, text as text, numbers beside."""

from __future__ import annotations

import csv
import io
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image

from lnbench import figures
from lnbench.errors import LnbenchError
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from tests.support.figure_data import matrix_of


@pytest.fixture(scope="module")
def figure(lape: NeuronSet) -> figures.Figure:
    return figures.language_overlap(lape)


@pytest.fixture(scope="module")
def saved(figure: figures.Figure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "new"
    files = figures.save(figure, folder)
    assert [path.name for path in files] == [f"{figure.name}.{end}" for end in ("png", "svg", "pdf", "csv")]
    assert sorted(files) == sorted(folder.iterdir())
    return folder


def test_each_file_is_what_its_name_says(figure: figures.Figure, saved: Path) -> None:
    with Image.open(saved / f"{figure.name}.png") as picture:
        assert picture.width == 200 * figure.size[0] == 1300
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    document = (saved / f"{figure.name}.pdf").read_bytes()
    assert document.startswith(b"%PDF") and b"/FontFile2" in document and b"/Type3" not in document
    root = ElementTree.fromstring((saved / f"{figure.name}.svg").read_bytes())
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Hindi" in words and "share of the row's neurons" in words


def test_the_table_is_the_figures(figure: figures.Figure, saved: Path) -> None:
    text = (saved / f"{figure.name}.csv").read_bytes().decode()
    assert text == figures.table(figure)
    first, *rest = list(csv.reader(io.StringIO(text, newline="")))
    assert tuple(first) == tuple(figure.columns)
    assert rest == [["" if value is None else str(value) for value in row] for row in figure.rows]


def test_the_same_numbers_make_the_same_files(figure: figures.Figure, saved: Path, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        for file in figures.save(figure, tmp_path):
            assert file.read_bytes() == (saved / file.name).read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_threads_draw_the_same(figure: figures.Figure) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: figures.svg(figure), range(4)))) == 1


def test_an_unknown_format_lists_the_known(figure: figures.Figure, tmp_path: Path) -> None:
    with pytest.raises(LnbenchError, match="unknown figure format 'gif'; known: png, svg, pdf"):
        figures.save(figure, tmp_path, ["png", "gif"])
    assert not list(tmp_path.iterdir())


def test_only_the_chosen_formats(figure: figures.Figure, tmp_path: Path) -> None:
    assert [path.suffix for path in figures.save(figure, tmp_path, ["svg"])] == [".svg", ".csv"]


def test_in_a_page_it_is_told_to_the_blind_and_keeps_to_itself(figure: figures.Figure) -> None:
    unsafe = replace(figure, title="<script>alert(1)</script>", alt='"quoted" & told')
    text = figures.svg(unsafe)
    assert text.startswith("<svg ") and "<script" not in text and "<style" not in text and "<metadata" not in text
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img" and "height" not in root.attrib and "max-width: 468pt" in root.attrib["style"]
    labels = [one.text for one in root if one.get("id") in root.attrib["aria-labelledby"].split()]
    assert labels == [unsafe.title, unsafe.alt]
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids)) and all(one.startswith(f"{figure.name}-") for one in ids)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert used and {one for pair in used for one in pair if one} <= set(ids)


def test_two_figures_of_a_page_have_no_id_in_common(matrix: PerplexityMatrix) -> None:
    both = [figures.svg(figures.perplexity_matrix(matrix, unit)) for unit in ("nats", "bits_per_byte")]
    one, other = (set(re.findall(r' id="([^"]+)"', text)) for text in both)
    assert one and not one & other


@pytest.mark.parametrize("fonts", ["all_fonts", "only_dejavu"])
def test_no_sign_is_missing_from_the_fonts(fonts: str, request: pytest.FixtureRequest) -> None:
    if fonts == "only_dejavu":
        request.getfixturevalue(fonts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.perplexity_matrix(matrix_of(["en", "hi", "ur", "zh", "ja", "ta"])).draw().draw_without_rendering()
