"""How every figure looks: colours, hatches, markers, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import matplotlib.style

WIDTH = 6.5
"""Inches: the text width of a page in one column."""
TALLEST = 8.6
"""Inches: what such a page leaves beside a caption."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
"""Okabe and Ito's, which colour-blind readers can distinguish. A series has its hatch or marker too, for grey print."""
HATCHES = ("", "/////", "\\\\\\\\", "xxxx", "-----", "|||||", "++++", "//")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NEUTRAL = "#767676"
"""For what a reader compares with: chance, random neurons."""
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
