"""A figure: what it shows in words and numbers, and how it is drawn and saved."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing

from lnbench.errors import unknown
from lnbench.figures.fitting import wrap_names_of_axes
from lnbench.figures.style import TALLEST, WIDTHS, Width, styled
from lnbench.files import atomic_path
from lnbench.formats import slug
from lnbench.model.architectures import in_units

Value = str | int | float | bool | None
FORMATS = ("png", "svg", "pdf")
_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
}
"""Nothing that changes from day to day or between releases: the same numbers make the same file."""
_NOT_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""What a name may hold and XML may not."""
_ON_SCREEN = 110
"""Dots per inch in a notebook."""
_LONGEST = 60
"""Characters of one word of a file's stem."""
_LETTERS, _LINE = 14.0, 0.15
"""Of a title: letters in an inch, and inches of a line."""


@dataclass(frozen=True)
class Figure:
    """One figure, as data; :meth:`draw` draws it.

    Attributes:
        name: File stem.
        title: A line above the figure.
        caption: What it shows, the axes, the unit, and how to read it.
        alt: One sentence for a reader who cannot see it.
        columns: Headings of ``rows``.
        rows: The numbers that are drawn, for CSV and tables; None where there is none.
        size: Width and height in inches, at a page's width.
        paint: Draws on an empty matplotlib figure, of a page's width or of a column's.
        column_height: Inches at a column's width, where that is not the page's; further lines of the title come to it.
    """

    name: str
    title: str
    caption: str
    alt: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    size: tuple[float, float] = field(repr=False)
    paint: Callable[[Drawing], None] = field(repr=False, compare=False)
    column_height: float | None = field(default=None, repr=False)

    def in_units(self, site: str) -> Figure:
        """Return the figure of neurons as one of a site's units, in its words; labels are painted as they are."""
        title, caption, alt = (in_units(text, site) for text in (self.title, self.caption, self.alt))
        return replace(self, title=title, caption=caption, alt=alt)

    def draw(self, width: Width = "page") -> Plot:
        """Draw the figure in matplotlib. Nothing global is touched, and several threads may draw at a time.

        Args:
            width: ``page``, or ``column``: half of it, for papers in two columns. Text has the same size in both.
        """
        size = self.size if width == "page" else (WIDTHS[width], self._column_height())
        with styled():
            drawing = Plot(self, figsize=size, layout="constrained")
            drawing.suptitle(self._title(size[0]), x=0.01, ha="left")
            self.paint(drawing)
            wrap_names_of_axes(drawing)
        return drawing

    def _title(self, width: float) -> str:
        return textwrap.fill(self.title, round(width * _LETTERS))

    def _column_height(self) -> float:
        lines, before = (self._title(width).count("\n") for width in (WIDTHS["column"], self.size[0]))
        return min(TALLEST, (self.column_height or self.size[1]) + (lines - before) * _LINE)


class Plot(Drawing):  # type: ignore[misc]
    """A figure of matplotlib that knows what it shows: it has ``caption``, ``alt``, ``columns`` … as :class:`Figure`.

    Attributes:
        data: The figure as data.
    """

    def __init__(self, data: Figure, **options: Any) -> None:
        super().__init__(**options)
        self.data = data

    def __getattr__(self, name: str) -> Any:
        if name in _OF_DATA:
            return getattr(self.data, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        with styled():
            self.savefig(image, format="png", dpi=_ON_SCREEN, metadata=_OPTIONS["png"]["metadata"])
        return image.getvalue()


_OF_DATA = {own.name for own in fields(Figure)} - {"size", "paint"}


def stem(*parts: str) -> str:
    """Return a file's stem, also an HTML id, made of words of any kind."""
    return "-".join(filter(None, (slug(part, "").strip("_")[:_LONGEST] for part in parts)))


def save(
    figure: Figure | Plot, folder: str | Path, formats: Sequence[str] = FORMATS, width: Width = "page"
) -> list[Path]:
    """Write ``{name}.png``, ``.svg`` and ``.pdf``, and the numbers as ``{name}.csv`` (UTF-8).

    Args:
        figure: What to write.
        folder: Where to; created if it does not exist.
        formats: Of ``png`` (200 dpi), ``svg`` (text as text) and ``pdf`` (fonts embedded).
        width: In print: ``page``, or a ``column`` of two.

    Returns:
        The files.

    Raises:
        LnbenchError: an unknown format or width, or the folder cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("figure format", name, FORMATS)
    if width not in WIDTHS:
        raise unknown("figure width", width, WIDTHS)
    files = [Path(folder) / f"{figure.name}.{name}" for name in (*formats, "csv")]
    drawing = figure if isinstance(figure, Plot) else figure.draw(width)
    for name, file in zip(formats, files, strict=False):
        with atomic_path(file) as path, styled():
            drawing.savefig(path, format=name, **_OPTIONS[name])
            if name == "svg":
                path.write_bytes(_NOT_XML.sub(b"", path.read_bytes()))
    with atomic_path(files[-1]) as path:
        path.write_text(table(figure), encoding="utf-8", newline="")
    return files


def table(figure: Figure | Plot) -> str:
    """Return the numbers as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows([figure.columns, *figure.rows])
    return text.getvalue()
