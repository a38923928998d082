"""Neurons found again in the other half of a text."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Drawing

from lnbench.analysis.stability import Stability, StabilityRow
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_axis
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import NEUTRAL, TALLEST, WIDTH, series
from lnbench.tables.words import counted, model_name


@drawn_from(lambda data: ((results,) for results in data.stabilities))
def stability(results: Stability) -> Figure:
    """Draw points: how much of a selection comes back from the other half of the text, and what chance would give.

    Raises:
        LnbenchError: it has no rows.
    """
    if not results.rows:
        raise LnbenchError("these results have no rows to draw")
    selectors = list(dict.fromkeys(row.selector for row in results.rows))
    languages = list(dict.fromkeys(row.language for row in results.rows))

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        step = 0.7 / len(selectors)
        for number, selector in enumerate(selectors):
            rows = [row for row in results.rows if row.selector == selector]
            values = [(row.jaccard, row.expected_jaccard) for row in rows]
            jaccard, expected = np.array(values, dtype=float).T  # Where there is none, nothing is drawn.
            places = [languages.index(row.language) + (number - (len(selectors) - 1) / 2) * step for row in rows]
            colour, _, marker = series(number)
            axes.plot(jaccard, places, marker, color=colour, label=selector, markersize=5)
            axes.plot(expected, places, "|", color=NEUTRAL, markersize=9)
        axes.plot([], [], "|", color=NEUTRAL, markersize=9, label="by chance")
        language_axis(axes, languages)
        axes.set(xlabel="Jaccard index of the two halves' selections (1: the same neurons)", xlim=(-0.02, 1.02))
        axes.grid(axis="both")
        legend(drawing, abreast=min(3, len(selectors) + 1))

    indices = [row.jaccard for row in results.rows if row.jaccard is not None] or [0.0]
    return Figure(
        name="stability",
        title=f"Neurons found again in the other half of the text: {model_name(results.model)}",
        caption=(
            "Each selector ran on two halves of the text, which have no document in common. A point is the Jaccard "
            "index of the two selections, the neurons in both divided by those in either; the grey line is what "
            "chance would give, with as many neurons in each layer. 1: the same neurons; near the line: noise. A "
            "language without neurons in either has no point."
        ),
        alt=(
            f"Points of {counted(len(selectors), 'selector')} and {counted(len(languages), 'language')}; Jaccard "
            f"indices from {min(indices):.2f} to {max(indices):.2f}."
        ),
        columns=tuple(StabilityRow.model_fields),
        rows=[tuple(row.model_dump().values()) for row in results.rows],
        size=(WIDTH, min(TALLEST, 1.3 + len(languages) * max(0.3, 0.14 * len(selectors)))),
        paint=paint,
    )
