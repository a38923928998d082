"""The matrix of perplexity changes: whose neurons are changed × whose text is read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import CenteredNorm, SymLogNorm
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from lnbench.errors import LnbenchError, unknown
from lnbench.figures.figure import Figure, stem
from lnbench.figures.heatmaps import (
    cells,
    colour_bar,
    fit,
    frame,
    is_dense,
    language_columns,
    language_rows,
    matrix_size,
    numbers,
)
from lnbench.figures.labels import language_name
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import CHANGES, NEUTRAL
from lnbench.model.architectures import in_units
from lnbench.perplexity.matrix import MatrixCell, PerplexityMatrix, Selectivity
from lnbench.significance import LEVEL
from lnbench.tables.findings import UNITS
from lnbench.tables.words import control_units, counted, model_name

_FIELDS = (
    *("p_value", "p_holm", "outside_range", "control_delta_nats"),
    *("control_min", "control_max", "n_controls", "exceeds_controls"),
)
_RENAMED = {"control_min": "control_min_nats", "control_max": "control_max_nats"}
_OWN: dict[str, Any] = {"edgecolor": "black", "linewidth": 1.6, "zorder": 3, "clip_on": False}
_NOT_SIGNIFICANT: dict[str, Any] = {"hatch": "////", "edgecolor": NEUTRAL, "linewidth": 0, "alpha": 0.6, "zorder": 2}
_WIDE = "perplexity"
"""The unit whose values reach over so many powers of ten that colours follow the logarithm."""
_THOUSANDS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

_SELECTIVITY = (
    " The last column is the change of the own text less the mean change of the others', with, where there is room, "
    "the language whose text changed most."
)


@drawn_from(lambda data: product(data.matrices, ("nats", "perplexity", "bits_per_byte")))
def perplexity_matrix(matrix: PerplexityMatrix, unit: str = "nats") -> Figure:
    """Draw a matrix: rows, whose neurons are changed; columns, whose text is read; cells, the change.

    The own text of each row's language is framed. A cell is hatched where its change is not significant after Holm's
    correction, and in brackets where some draw of random neurons changed as much. In nats a last column says by
    how much the own text is harmed more than the others' on average, and whose is harmed most.

    Raises:
        LnbenchError: an unknown unit, or no cells.
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    if not matrix.cells:
        raise LnbenchError("this perplexity matrix has no cells to draw")
    measured = UNITS[unit]
    rows = [list(matrix.row(changed)) for changed in matrix.changed]
    delta = f"delta_{unit}"
    values = np.array([[getattr(cell, delta) for cell in row] for row in rows], dtype=float)
    selectivity = {row.changed: row for row in matrix.selectivity} if unit == "nats" else {}
    fields = (delta, f"{delta}_low", f"{delta}_high", *_FIELDS)

    def paint(drawing: Drawing) -> None:
        dense = is_dense(drawing, len(matrix.read))
        if selectivity:
            axes, beside = drawing.subplots(1, 2, width_ratios=[len(matrix.read), 1.5])
        else:
            axes, beside = drawing.subplots(), None
        mesh = cells(axes, values, CHANGES, _scale(values, unit))
        language_rows(drawing, axes, matrix.changed, len(matrix.read))
        axes.set(
            ylabel=in_units("language whose neurons are changed", matrix.site), xlabel="language whose text is read"
        )
        written = {axes: numbers(axes, mesh, [[_text(cell, unit, dense) for cell in row] for row in rows])}
        for place, cell in np.ndenumerate(np.array(rows, dtype=object)):
            if cell.changed == cell.read:
                frame(axes, *place, **_OWN)
            if cell.p_holm >= LEVEL:
                frame(axes, *place, **_NOT_SIGNIFICANT)
        if beside is not None:
            cells(beside, np.full((len(rows), 1), 0.0), "Greys", None)
            beside.set(yticks=[], xticks=[0.5], xticklabels=["own −\nothers'\nmean"])
            contrasts = [[_selective(selectivity.get(changed), dense)] for changed in matrix.changed]
            written[beside] = numbers(beside, None, contrasts)
        ticks = EngFormatter(sep="") if unit == _WIDE else None
        colour_bar(drawing, mesh, list(written), f"change of {measured}", format=ticks)
        language_columns(drawing, axes, matrix.read)
        fit(drawing, written)

    chosen = Path(matrix.selector).name if matrix.selector.endswith(".json") else matrix.selector
    return Figure(
        name=stem("perplexity_matrix", unit, chosen, matrix.intervention),
        title=f"Change of {measured} under {matrix.intervention}, neurons of {chosen}: {model_name(matrix.model)}",
        caption=(
            f"Each row sets the neurons of one language to the intervention's values ({matrix.intervention}); each "
            f"column is the language of the text that the model then reads. A cell is the change of {measured} "
            "against the unchanged model on the same text: above 0 (purple), the text became harder to predict. The "
            "own text of the row's language is framed. Hatched: not significant after Holm's correction (paired over "
            "blocks). "
            f"{_about_controls(matrix)}{_SELECTIVITY if selectivity else ''}"
        ),
        alt=_alt(matrix, rows),
        columns=("changed", "read", "unit", "delta", "low", "high", *(_RENAMED.get(name, name) for name in _FIELDS)),
        rows=[
            (cell.changed, cell.read, measured, *(getattr(cell, field) for field in fields))
            for row in rows
            for cell in row
        ],
        size=matrix_size(len(matrix.changed), matrix.read),
        paint=paint,
    ).in_units(matrix.site)


def _scale(values: NDArray[np.float64], unit: str) -> Any:
    """Return colours even in either direction from 0."""
    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    return SymLogNorm(1, vmin=-max(most, 10), vmax=max(most, 10)) if unit == _WIDE else CenteredNorm(0, most)


def _text(cell: MatrixCell, unit: str, dense: bool) -> str:
    value = getattr(cell, f"delta_{unit}")
    text = "> 1e308" if value is None and unit == _WIDE else "–" if value is None else _short(value, dense)
    return f"({text})" if cell.exceeds_controls is False else text


def _short(value: float, dense: bool = False) -> str:
    """Write a signed number in few characters: ``+0.13``, ``−12``, ``+3.1k``; in dense matrices ``0.1``."""
    size = abs(value)
    scale, letter = next(((scale, letter) for scale, letter in _THOUSANDS if size >= 0.9995 * scale), (1.0, ""))
    size /= scale
    fine = 0 if size >= 99.5 else 1 if size >= 9.95 or dense or letter else 2
    text = f"{size * scale:.0e}" if size >= 9_995 else f"{size:.{fine}f}{letter}"
    if not text.strip("0."):
        return text
    return f"−{text}" if value < 0 else text if dense else f"+{text}"


def _selective(row: Selectivity | None, dense: bool) -> str:
    if row is None or row.difference is None:
        return "–"
    whose = "own" if row.dominant else row.most_harmed
    return _short(row.difference, dense) if dense else f"{_short(row.difference)}\nmost: {whose}"


def _about_controls(matrix: PerplexityMatrix) -> str:
    draws = max((cell.n_controls for cell in matrix.cells), default=0)
    if not draws:
        return "There was no control."
    units = control_units(matrix.control)
    return f"In brackets: one of {draws} draws of {units} changed as much, or more, in that direction."


def _alt(matrix: PerplexityMatrix, rows: Sequence[Sequence[MatrixCell]]) -> str:
    """Return one sentence on whose text each row harms most."""
    parts = []
    for row in rows:
        most = max(row, key=lambda cell: cell.delta_nats)
        whose = "their own language's" if most.read == most.changed else language_name(most.read)
        parts.append(f"{language_name(most.changed)} neurons {whose} text ({_short(most.delta_nats)})")
    return (
        f"Matrix of {counted(len(matrix.changed), 'language')} whose neurons are changed by "
        f"{counted(len(matrix.read), 'language')} whose text is read. Most harmed, in nats per token: "
        f"{'; '.join(parts)}."
    )
