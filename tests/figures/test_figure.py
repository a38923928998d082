"""Figures as files and in pages: every format, the same bytes each time, text as text, numbers beside."""

from __future__ import annotations

import csv
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from PIL import Image

from lnbench import figures
from lnbench.neurons import NeuronSet
from tests.support.figure_data import matrix_of
from tests.support.messages import refused


@pytest.fixture(scope="module")
def figure(lape: NeuronSet) -> figures.Figure:
    return figures.language_overlap.data(lape)


@pytest.fixture(scope="module")
def saved(figure: figures.Figure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "new"
    files = figures.save(figure, folder)
    assert [path.name for path in files] == [f"{figure.name}.{end}" for end in ("png", "svg", "pdf", "csv")]
    assert sorted(files) == sorted(folder.iterdir())
    return folder


def test_each_file_is_what_its_name_says(figure: figures.Figure, saved: Path) -> None:
    with Image.open(saved / f"{figure.name}.png") as picture:
        assert picture.width == 200 * figure.size[0] == 1260
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


def test_threads_draw_the_same(figure: figures.Figure, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        saved = pool.map(lambda number: figures.save(figure, tmp_path / str(number), ["svg"])[0].read_bytes(), range(4))
        assert len(set(saved)) == 1


def test_an_unknown_format_lists_the_known(figure: figures.Figure, tmp_path: Path) -> None:
    with refused("gif", "png, svg, pdf"):
        figures.save(figure, tmp_path, ["png", "gif"])
    assert not list(tmp_path.iterdir())


def test_only_the_chosen_formats(figure: figures.Figure, tmp_path: Path) -> None:
    assert [path.suffix for path in figures.save(figure, tmp_path, ["svg"])] == [".svg", ".csv"]


def test_a_name_with_control_characters_leaves_the_svg_well_formed(figure: figures.Figure, tmp_path: Path) -> None:
    unsafe = replace(figure, title="<script>alert(1)</script> \x1b[31m \x00")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (file, _) = figures.save(unsafe, tmp_path, ["svg"])
    root = ElementTree.fromstring(file.read_bytes())
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert "<script>alert(1)</script>" in "".join(root.itertext())


@pytest.mark.parametrize("fonts", ["all_fonts", "only_dejavu"])
def test_no_sign_is_missing_from_the_fonts(fonts: str, request: pytest.FixtureRequest) -> None:
    if fonts == "only_dejavu":
        request.getfixturevalue(fonts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.perplexity_matrix.data(matrix_of(["en", "hi", "ur", "zh", "ja", "ta"])).draw().draw_without_rendering()
