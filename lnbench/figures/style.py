"""How every figure looks: widths, colours, hatches, markers, sizes of text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, Literal

import matplotlib.style
from matplotlib.figure import Figure as Drawing

Width = Literal["column", "page"]
WIDTHS: dict[Width, float] = {"column": 3.03, "page": 6.3}
"""Inches: a column of a paper in two columns on A4, as of the ACL's, and both together."""
WIDTH = WIDTHS["page"]
TALLEST = 8.6
"""Inches: what a page leaves beside a caption."""
SMALLEST = 7.0
"""Points of the smallest text, as printed."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
"""Okabe and Ito's, which colour-blind readers can distinguish. A series has its hatch or marker too, for grey print."""
HATCHES = ("", "/////", "\\\\\\\\", "xxxx", "-----", "|||||", "++++", "//")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NEUTRAL = "#767676"
"""For what a reader compares with: chance, random neurons."""
RANGE = "#C9C9C9"
"""For a range of such."""
NOTHING = "#E4E4E4"
"""For cells without a number."""
NESTED = ("#9AB9CF", "#4F93BF", COLOURS[0])
"""Ranges inside one another, from the widest."""
AMOUNTS = "YlGnBu"
"""Colour map of amounts, even in lightness: the more, the darker."""
CHANGES = "PuOr"
"""Colour map of changes in either direction, white at none."""

_SETTINGS: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "x",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # Names are strangers' text, and may hold a dollar sign.
    "svg.fonttype": "none",
    "svg.hashsalt": "lnbench",
    "pdf.fonttype": 42,
}
_LOCK = RLock()


@contextmanager
def styled() -> Iterator[None]:
    """Set matplotlib's settings while the block runs, not the user's; in one thread at a time, as they are global."""
    with _LOCK, matplotlib.style.context(["default", _SETTINGS]):
        yield


def series(number: int) -> tuple[str, str, str]:
    """Return colour, hatch and marker of a series. After the eighth, pairs of colour and hatch start to differ."""
    shifted = number + number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], HATCHES[shifted % len(HATCHES)], MARKERS[shifted % len(MARKERS)]


def is_narrow(drawing: Drawing) -> bool:
    """Return whether a figure has a column's width, where texts are short and panels few abreast."""
    return float(drawing.get_figwidth()) < WIDTH
