"""The matrix of perplexity changes: whose neurons are changed × whose text is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from lnbench.errors import LnbenchError, unknown
from lnbench.figures.figure import Figure, Unit, stem
from lnbench.figures.heatmaps import (
    MANY,
    cells,
    fit,
    hatch,
    language_columns,
    language_rows,
    matrix_size,
    numbers,
    outline,
)
from lnbench.figures.labels import language_name
from lnbench.figures.registry import drawn_from, matrices
from lnbench.figures.style import CHANGES
from lnbench.significance import LEVEL
from lnbench.tables.findings import UNITS
from lnbench.tables.words import counted, model_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from lnbench.perplexity.matrix import Cell, PerplexityMatrix, Selectivity


_CONTROLS = ("control_delta_nats", "control_min", "control_max", "n_controls", "exceeds_controls")
_WIDE = "perplexity"
"""The unit whose values reach over so many powers of ten that colours follow the logarithm."""
_THOUSANDS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

_SELECTIVITY = (
    " The last column is the change of the own text less the mean change of the others', with, where there is room, "
    "the language whose text changed most."
)


@drawn_from(matrices)
def perplexity_matrix(matrix: PerplexityMatrix, unit: Unit = "nats") -> Figure:
    """Draw a matrix: rows, whose neurons are changed; columns, whose text is read; cells, the change.

    The own text of each row's language is framed. A cell is hatched where its change is not significant after Holm's
    correction, and in brackets where some draw of random neurons changed as much. In nats a last column says by
    how much the own text is harmed more than the others' on average, and whose is harmed most.

    Raises:
        LnbenchError: an unknown unit, or no cells.
    """
    if unit not in UNITS:
        raise unknown("unit", unit, get_args(Unit))
    if not matrix.cells:
        raise LnbenchError("this perplexity matrix has no cells to draw")
    measured = UNITS[unit]
    rows = [list(matrix.row(changed)) for changed in matrix.changed]
    values = np.array([[_value(cell, unit) for cell in row] for row in rows], dtype=float)
    selectivity = {one.changed: one for one in matrix.selectivity} if unit == "nats" else {}
    dense = len(matrix.read) > MANY

    def paint(drawing: Drawing) -> None:
        from matplotlib.ticker import EngFormatter

        if selectivity:
            axes, beside = drawing.subplots(1, 2, width_ratios=[len(matrix.read), 1.5])
        else:
            axes, beside = drawing.subplots(), None
        mesh = cells(axes, values, CHANGES, _scale(values, unit))
        language_rows(axes, matrix.changed)
        axes.set(ylabel="language whose neurons are changed", xlabel="language whose text is read")
        texts = [[_text(cell, unit, dense) for cell in row] for row in rows]
        written = {axes: numbers(axes, mesh, texts)}
        for place, cell in np.ndenumerate(np.array(rows, dtype=object)):
            if cell.changed == cell.read:
                outline(axes, *place)
            if cell.p_holm >= LEVEL:
                hatch(axes, *place)
        if beside is not None:
            cells(beside, np.full((len(rows), 1), 0.0), "Greys", None)
            beside.set(yticks=[], xticks=[0.5], xticklabels=["own −\nothers'\nmean"])
            shown = [[_selective(selectivity.get(changed), dense)] for changed in matrix.changed]
            written[beside] = numbers(beside, None, shown)
        used = [one for one in (axes, beside) if one is not None]
        label = f"change of {measured}"
        drawing.colorbar(mesh, ax=used, label=label, aspect=30, format=EngFormatter(sep="") if unit == _WIDE else None)
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
        columns=(
            *("changed", "read", "unit", "delta", "low", "high", "p_value", "p_holm", "outside_range"),
            *(
                name if name.startswith(("n_", "exceeds")) else f"{name.removesuffix('_nats')}_nats"
                for name in _CONTROLS
            ),
        ),
        rows=[
            (
                *(cell.changed, cell.read, measured, *_interval(cell, unit)),
                *(getattr(cell, name) for name in ("p_value", "p_holm", "outside_range", *_CONTROLS)),
            )
            for row in rows
            for cell in row
        ],
        size=matrix_size(len(matrix.changed), matrix.read),
        paint=paint,
    )


def _interval(cell: Cell, unit: Unit) -> tuple[float | None, float | None, float | None]:
    """Return the change, and the ends of its interval."""
    value, low, high = (getattr(cell, f"delta_{unit}{end}") for end in ("", "_low", "_high"))
    return value, low, high


def _value(cell: Cell, unit: Unit) -> float:
    value = _interval(cell, unit)[0]
    return float("nan") if value is None else value


def _scale(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], unit: Unit) -> Any:
    """Return colours even in either direction from 0."""
    from matplotlib.colors import CenteredNorm, SymLogNorm

    most = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    return SymLogNorm(1, vmin=-max(most, 10), vmax=max(most, 10)) if unit == _WIDE else CenteredNorm(0, most)


def _text(cell: Cell, unit: Unit, dense: bool) -> str:
    value = _interval(cell, unit)[0]
    text = "> 1e308" if value is None and unit == _WIDE else "–" if value is None else _short(value, dense)
    return f"({text})" if cell.exceeds_controls is False else text


def _short(value: float, dense: bool = False) -> str:
    """Write a signed number in few characters: ``+0.13``, ``−12``, ``+3.1k``; in dense matrices ``0.1``."""
    size = abs(value)
    scale, letter = next(((one, letter) for one, letter in _THOUSANDS if size >= 0.9995 * one), (1.0, ""))
    size /= scale
    fine = 0 if size >= 99.5 else 1 if size >= 9.95 or dense or letter else 2
    text = f"{size * scale:.0e}" if size >= 9_995 else f"{size:.{fine}f}{letter}"
    if not text.strip("0."):
        return text
    return f"−{text}" if value < 0 else text if dense else f"+{text}"


def _selective(one: Selectivity | None, dense: bool) -> str:
    if one is None or one.difference is None:
        return "–"
    whose = "own" if one.dominant else one.most_harmed
    return _short(one.difference, dense) if dense else f"{_short(one.difference)}\nmost: {whose}"


def _about_controls(matrix: PerplexityMatrix) -> str:
    draws = max((cell.n_controls for cell in matrix.cells), default=0)
    if not draws:
        return "There was no control of random neurons."
    return f"In brackets: one of {draws} draws of as many random neurons changed as much, or more, in that direction."


def _alt(matrix: PerplexityMatrix, rows: Sequence[Sequence[Cell]]) -> str:
    """Say in one sentence which rows are strongest on the diagonal."""
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
