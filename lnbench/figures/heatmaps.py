"""A matrix of coloured cells with a number in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from lnbench.figures.labels import language_label, language_ticks, write_in_own_script
from lnbench.figures.style import NOTHING, SMALLEST, TALLEST, WIDTH, is_narrow

_LARGEST = 7.5
"""Points: of numbers in cells."""
_LOWEST, _AROUND = 2.0, 0.9
"""Inches: the height that the name of an axis takes, and that of a title and the name below a matrix."""
_LETTER, _NAMES = 0.07, 1.0
"""Inches: a letter of a column's upright label, and what is left for such labels in any case."""
_DARK = 0.179
"""Relative luminance below which white has more contrast than black."""
_GAP = 2.0
"""Points between labels that are read as two."""
MANY = 8
"""Languages beyond which a matrix is dense: lower rows, shorter numbers."""


def matrix_size(rows: int, columns: Sequence[str]) -> tuple[float, float]:
    """Return width and height in inches of a matrix with ``rows`` languages, and columns of these."""
    height = max(_LOWEST, _AROUND + rows * (0.42 if rows <= MANY else 0.27))
    return WIDTH, min(TALLEST, height + names_height(columns))


def names_height(codes: Sequence[str]) -> float:
    """Return inches to leave for the labels of columns, should they have to stand upright."""
    return max(_NAMES, _LETTER * max(len(language_label(code, native=False)) for code in codes))


def cells(axes: Axes, values: NDArray[np.float64], colours: str, norm: Any) -> QuadMesh:
    """Colour ``values`` ``[rows, columns]``, the first row on top; cells without a number (NaN) are grey.

    Cells are drawn as shapes, so that they stay sharp in SVG and PDF.
    """
    axes.set_facecolor(NOTHING)
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="white", linewidth=0.8)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return mesh


def is_dense(drawing: Drawing, columns: int) -> bool:
    """Return whether so many columns need short numbers, short names and the scale of colours below."""
    return columns > MANY or is_narrow(drawing)


def colour_bar(drawing: Drawing, mesh: QuadMesh, axes: Sequence[Axes], label: str, **options: Any) -> Colorbar:
    """Draw the scale of the colours: at the right of cells, or below where they are dense."""
    columns = np.ma.asarray(mesh.get_array()).shape[-1]
    place = "bottom" if is_dense(drawing, columns) else "right"
    return drawing.colorbar(mesh, ax=list(axes), label=label, aspect=30, location=place, **options)


def language_rows(drawing: Drawing, axes: Axes, codes: Sequence[str], columns: int) -> None:
    """Name the rows: fully; in English where cells are dense; by the codes in a figure of a column's width."""
    language_ticks(axes, codes, 0.5)
    if is_narrow(drawing):
        axes.set_yticklabels(codes)
        return
    in_english = [language_label(code, native=False) for code in codes]
    own = [
        language_label(code).removeprefix(english).removeprefix(" · ")
        for code, english in zip(codes, in_english, strict=True)
    ]
    both = ["\n".join(filter(None, names)) for names in zip(in_english, own, strict=True)]
    axes.set_yticklabels(in_english if is_dense(drawing, columns) else both)


def language_columns(drawing: Drawing, axes: Axes, codes: Sequence[str]) -> None:
    """Name the columns: below one another where there is room, else upright and without the own name.

    In a figure of a column's width they are named by their codes. It measures, so all that takes room beside the cells
    has to be there already.
    """
    places = np.arange(len(codes)) + 0.5
    if narrow := is_narrow(drawing):
        axes.set_xticks(places, list(codes))
    else:
        axes.set_xticks(places, [language_label(code, separator="\n") for code in codes])
        write_in_own_script(axes.get_xticklabels(), codes)
    drawing.draw_without_rendering()
    if _touching([label for panel in drawing.axes for label in panel.get_xticklabels()]):
        upright = [code if narrow else language_label(code, native=False) for code in codes]
        axes.set_xticks(places, upright, rotation=90)


def _touching(labels: Sequence[Text]) -> bool:
    """Return whether any two labels of a figure that is laid out overlap, or nearly so."""
    boxes = []
    for label in labels:
        figure = label.get_figure(root=True)
        if label.get_text() and figure is not None:
            boxes.append(label.get_window_extent().padded(_GAP / 2 * figure.dpi / 72))
    return any(box.overlaps(other) for box, other in combinations(boxes, 2))


def numbers(axes: Axes, mesh: QuadMesh | None, texts: Sequence[Sequence[str]]) -> list[Text]:
    """Write into every cell, black on light colours and white on dark ones.

    Args:
        axes: Where the cells are.
        mesh: Their colours; all light if None.
        texts: ``[rows][columns]``; nothing is written where a text is empty.
    """
    dark = np.zeros((len(texts), len(texts[0])), dtype=bool)
    if mesh is not None:
        values: np.ma.MaskedArray[Any, Any] = np.ma.asarray(mesh.get_array())
        dark = (_luminance(mesh.to_rgba(values)) < _DARK) & ~np.ma.getmaskarray(values)
    written = []
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            if text:
                label = axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", linespacing=1.15)
                label.set_color("white" if dark[row, column] else "black")
                written.append(label)
    return written


def _luminance(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return relative luminance of RGBA colours, 0 to 1, as the Web Content Accessibility Guidelines define it."""
    rgb = colours[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


def fit(drawing: Drawing, written: Mapping[Axes, Sequence[Text]]) -> None:
    """Make the numbers in cells as large as these allow, all alike; of what cannot be read, leave out what is less.

    Where a text of several lines is too large for its cell, only the first lines are shown; then, none.
    """
    drawing.draw_without_rendering()
    all_texts = [text for texts in written.values() for text in texts]
    size = _common_size(drawing, written)
    if size < SMALLEST:
        for text in all_texts:
            text.set_text(text.get_text().partition("\n")[0])
        size = _common_size(drawing, written)
    for text in all_texts:
        if size < SMALLEST:
            text.remove()
        else:
            text.set_fontsize(size)


def _common_size(drawing: Drawing, written: Mapping[Axes, Sequence[Text]]) -> float:
    return min((_fitting(drawing, axes, texts) for axes, texts in written.items() if texts), default=_LARGEST)


def _fitting(drawing: Drawing, axes: Axes, texts: Sequence[Text]) -> float:
    """Return the largest size in points that suits the cells."""
    box = axes.get_window_extent()
    columns, rows = (abs(high - low) for low, high in (axes.get_xlim(), axes.get_ylim()))
    width, height = (72 / drawing.dpi * side for side in (box.width / columns, box.height / rows))
    distinct = {text.get_text(): text for text in texts}
    widest = max(
        text.get_window_extent().width * 72 / drawing.dpi / float(text.get_fontsize()) for text in distinct.values()
    )
    lines = max(text.count("\n") + 1 for text in distinct)
    return min(_LARGEST, 0.92 * width / widest, 0.88 * height / (1.2 * lines))


def frame(axes: Axes, row: int, column: int, **style: Any) -> None:
    """Draw a rectangle on a cell."""
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, **style))
