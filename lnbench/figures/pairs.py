"""A task's metric by pair of languages: source × target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.heatmaps import cells, colour_bar, fit, language_columns, language_rows, matrix_size, numbers
from lnbench.figures.registry import FigureData, drawn_from
from lnbench.figures.style import AMOUNTS
from lnbench.leaderboard.rows import Row, tables_of
from lnbench.tables.words import counted, model_name

_COLUMNS = (
    *("source", "target", "metric", "n", "baseline", "value", "delta", "ci_low", "ci_high", "p_holm", "significant"),
)


def _matrices(data: FigureData) -> Iterator[tuple[list[Row]]]:
    """Yield the rows of each metric, selector and intervention that were measured between two languages or more."""
    for rows in data.leaderboards:
        for table in tables_of(row for row in rows if row.source and row.control_of is None and row.value is not None):
            groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
            for row in table:
                # One matrix for each adapter, seed and setup: a pair has one number there.
                groups[row.selector, row.intervention, row.finetune, row.seed, row.limit, row.override_setup].append(
                    row
                )
            yield from ((group,) for group in groups.values())


@drawn_from(_matrices)
def pairs(rows: Sequence[Row]) -> Figure:
    """Draw one metric of one selector and intervention: a line per source, a column per target.

    Args:
        rows: One per pair of languages.

    Raises:
        LnbenchError: no row has a source, or two rows are of one pair.
    """
    by_pair = {(row.source, row.language): row for row in rows if row.source is not None}
    if not by_pair or len(by_pair) < len(rows):
        raise LnbenchError("a matrix of pairs takes one row per pair of languages, each with a source")
    first = rows[0]
    order = list(dict.fromkeys(code for codes in zip(*by_pair, strict=True) for code in codes))
    sources, targets = (sorted(set(codes), key=order.index) for codes in zip(*by_pair, strict=True))
    values = np.full((len(sources), len(targets)), np.nan)
    texts = [[""] * len(targets) for _ in sources]
    for (source, target), row in by_pair.items():
        place = sources.index(source), targets.index(target)
        values[place] = np.nan if row.value is None else row.value
        change = "" if row.delta is None else f"\n{row.delta:+.3g}{'*' if row.significant else ''}"
        texts[place[0]][place[1]] = f"{row.value:.3g}{change}"

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        mesh = cells(axes, values, AMOUNTS, Normalize(low, high if high > low else low + 1))
        language_rows(drawing, axes, sources, len(targets))
        axes.set(xlabel="target", ylabel="source")
        colour_bar(drawing, mesh, [axes], str(first.metric), ticks=MaxNLocator(5))
        language_columns(drawing, axes, targets)
        fit(drawing, {axes: numbers(axes, mesh, texts)})

    known = [row.value for row in by_pair.values() if row.value is not None]
    what = f"{first.metric} of {first.task_pattern} under {first.intervention}"
    return Figure(
        name=stem("pairs", first.task_pattern, first.metric or "", first.intervention, first.selector),
        title=f"By source and target: {what}, {model_name(first.model)}",
        caption=(
            f"{first.metric} for each pair of languages under {first.intervention} of {first.selector}: lines are the "
            "source, which an answer would be in, columns the target, whose neurons are changed. Below a value its "
            "change against the model without intervention on the same documents, with * where it is significant after "
            "Holm's correction. Grey: not measured."
        ),
        alt=(
            f"A matrix of {counted(len(sources), 'source')} by {counted(len(targets), 'target')}: {what}, from "
            f"{min(known):.3g} to {max(known):.3g}."
        ),
        columns=_COLUMNS,
        rows=[
            (
                *pair,
                row.metric,
                row.n,
                row.baseline,
                row.value,
                row.delta,
                row.ci_low,
                row.ci_high,
                row.p_holm,
                row.significant,
            )
            for pair, row in by_pair.items()
        ],
        size=matrix_size(len(sources), targets),
        paint=paint,
    )
