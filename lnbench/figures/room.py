"""Whether labels have room beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.text import Text

_GAP = 2.0
"""Points between labels that are read as two."""


def touching(labels: Sequence[Text]) -> bool:
    """Whether any two labels of a figure that is laid out overlap, or nearly so."""
    boxes = []
    for label in labels:
        figure = label.get_figure(root=True)
        if label.get_text() and figure is not None:
            boxes.append(label.get_window_extent().padded(_GAP / 2 * figure.dpi / 72))
    return any(one.overlaps(other) for one, other in combinations(boxes, 2))
