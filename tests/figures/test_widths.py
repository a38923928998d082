"""Every kind of figure at a page's width and at a column's: text of print size, inside it, as text in its files."""

from __future__ import annotations

import re
import zlib
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Drawing
from matplotlib.text import Text
from typer.testing import CliRunner

from lnbench import figures
from lnbench.cli import app
from lnbench.figures import style
from lnbench.figures.registry import FIGURES
from tests.support.figure_data import curve_of, every_kind
from tests.support.messages import refused

FIVE = ["en", "vi", "hi", "ur", "zh"]
KINDS = every_kind(FIVE)
WIDTHS: list[style.Width] = ["column", "page"]


def texts(drawing: Drawing) -> list[Text]:
    """All that is written, without the ticks of an axis that are out of view."""
    hidden = {
        id(label)
        for parent in drawing.axes
        for axes in (parent, *parent.child_axes)
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not axes.get_visible()
        or not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = [text for text in drawing.findobj(Text) if isinstance(text, Text)]
    return [text for text in found if text.get_text().strip() and text.get_visible() and id(text) not in hidden]


def test_every_registered_figure_is_tried() -> None:
    assert (
        set(KINDS)
        == set(FIGURES)
        == set(figures.__all__) - {"FORMATS", "Figure", "FigureKind", "Plot", "save", "table"}
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_text_has_print_size_and_is_inside(kind: str, width: style.Width) -> None:
    drawing = KINDS[kind].draw(width)
    drawing.draw_without_rendering()
    assert drawing.get_figwidth() == style.WIDTHS[width] and drawing.get_figheight() <= style.TALLEST
    page = drawing.bbox.padded(1)
    shown = texts(drawing)
    for text in shown:
        box = text.get_window_extent()
        assert float(text.get_fontsize()) >= 7, text.get_text()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()
    for axes in drawing.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label in shown]
            assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]


def test_both_widths_show_the_same_numbers(tmp_path: Path) -> None:
    figure = KINDS["stability_curve"]
    tables, drawn = [], []
    for width in WIDTHS:
        tables.append(figures.save(figure, tmp_path / width, ["svg"], width)[-1].read_bytes())
        drawn.append([line.get_xydata().tolist() for axes in figure.draw(width).axes for line in axes.lines])
    assert tables[0] == tables[1]
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


def test_text_is_text_and_its_font_is_in_the_file(tmp_path: Path) -> None:
    figure = KINDS["stability_curve"]
    for width, inches in style.WIDTHS.items():
        svg, pdf, _ = figures.save(figure, tmp_path / width, ["svg", "pdf"], width)
        root = ElementTree.fromstring(svg.read_bytes())
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * inches)
        written = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"lape", "hi · Hindi", "tokens read per language"} <= set(written)
        document = pdf.read_bytes()
        (box,) = set(re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+)", document))
        assert float(box) == pytest.approx(72 * inches)
        # TrueType with its outlines: text that can be searched, copied and edited, and no pictures of letters.
        assert b"/FontFile2" in document and b"/Type3" not in document and b"/Subtype /Image" not in document
        streams = b"".join(map(_inflated, re.findall(rb"stream\r?\n(.*?)\r?\nendstream", document, re.DOTALL)))
        assert b"Tj" in streams or b"TJ" in streams


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_the_command_draws_at_a_columns_width(tmp_path: Path) -> None:
    curve_of().save(tmp_path / "stats" / "stability-curve.json")
    for width in WIDTHS:
        arguments = ["figures", str(tmp_path / "stats"), "-o", str(tmp_path / width), "--format", "svg"]
        assert CliRunner().invoke(app, [*arguments, "--width", width], catch_exceptions=False).exit_code == 0
        root = ElementTree.parse(tmp_path / width / "stability_curve-tiny.svg").getroot()
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * style.WIDTHS[width])
    assert CliRunner().invoke(app, [*arguments, "--width", "poster"]).exit_code == 2


def test_an_unknown_width_lists_the_known(tmp_path: Path) -> None:
    with refused("poster", "column, page"):
        figures.save(KINDS["stability_curve"], tmp_path, ["svg"], "poster")  # type: ignore[arg-type]


# Colours

_BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
"""What linear RGB looks like without one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1."""


def _lab(colour: Any, seen: Any = None) -> Any:
    """CIE L*a*b* of an sRGB colour, as seen by a reader without a kind of cone."""
    rgb = np.asarray(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if seen is not None:
        linear = np.clip(np.asarray(seen) @ linear, 0, 1)
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x, y, z = (value ** (1 / 3) for value in matrix @ linear / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", [None, *_BLIND])
def test_series_differ_for_every_reader(kind: str | None) -> None:
    seen = _BLIND.get(kind or "")
    distances = {
        (one, other): np.linalg.norm(_lab(one, seen) - _lab(other, seen))
        for one, other in combinations(style.COLOURS[:6], 2)
    }
    assert min(distances.values()) > 9, min(distances, key=lambda pair: distances[pair])


def test_a_series_differs_from_every_other_without_colour_too() -> None:
    looks = [style.series(number) for number in range(24)]
    assert len(set(looks)) == 24
    assert len({hatch for _, hatch, _ in looks[:8]}) == len({marker for *_, marker in looks[:8]}) == 8


@pytest.mark.parametrize("kind", [None, *_BLIND])
def test_more_is_darker_for_every_reader(kind: str | None) -> None:
    seen = _BLIND.get(kind or "")
    light = [_lab(colour, seen)[0] for colour in colormaps[style.AMOUNTS](np.linspace(0, 1, 21))]
    assert all(np.diff(light) < 0)
    either = [_lab(colour, seen) for colour in colormaps[style.CHANGES](np.linspace(0, 1, 21))]
    lightness = [colour[0] for colour in either]
    assert max(lightness) == lightness[10] and all(np.diff(lightness[:11]) > 0) and all(np.diff(lightness[10:]) < 0)
    assert np.linalg.norm(either[2] - either[-3]) > 30  # the two directions


def test_colours_are_in_one_file() -> None:
    folder = Path(style.__file__).parent
    found = {
        (file.name, colour)
        for file in folder.glob("*.py")
        for colour in re.findall(r'"#[0-9A-Fa-f]{6}"|"viridis"|fontsize=\d', file.read_text(encoding="utf-8"))
        if file.name != "style.py"
    }
    assert found == set()
