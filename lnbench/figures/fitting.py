"""Texts that find their room: legends, and the names of axes, at any width."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from textwrap import fill

from matplotlib.artist import Artist
from matplotlib.figure import Figure as Drawing
from matplotlib.legend import Legend
from matplotlib.text import Text

_MOST_LINES = 3
_SHARE = 0.97
"""Of a figure's width: what a legend takes at most."""


def legend(drawing: Drawing, handles: Sequence[Artist] | None = None, *, abreast: int = 4) -> Legend:
    """Put a legend below a figure, in as many columns, up to ``abreast``, as there is room for.

    Args:
        drawing: The figure.
        handles: What to name; all that has a label if None.
        abreast: Columns at most.
    """
    given = {} if handles is None else {"handles": list(handles)}
    for columns in range(abreast, 1, -1):
        tried = drawing.legend(loc="outside lower center", ncols=columns, **given)
        if tried.get_window_extent().width <= _SHARE * drawing.bbox.width:
            return tried
        tried.remove()
    return drawing.legend(loc="outside lower center", ncols=1, **given)


def wrap_names_of_axes(drawing: Drawing) -> None:
    """Break the names of axes that are longer than their axes into up to three lines."""
    drawing.draw_without_rendering()
    for axes in drawing.axes:
        box = axes.get_window_extent()
        for label, room in ((axes.xaxis.label, box.width), (axes.yaxis.label, box.height)):
            _wrap(label, room)


def _wrap(label: Text, room: float) -> None:
    text, box = label.get_text(), label.get_window_extent()
    length = max(box.width, box.height)  # One of the two is the height of a line.
    lines = min(_MOST_LINES, ceil(length / max(1.0, room)))
    if lines > 1 and "\n" not in text:
        label.set_text(fill(text, ceil(1.15 * len(text) / lines), break_long_words=False))
