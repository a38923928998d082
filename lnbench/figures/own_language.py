"""The headline's figure: what changing each language's own neurons does to that language, against a control."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from lnbench.errors import LnbenchError
from lnbench.figures import changes
from lnbench.figures.figure import Figure, stem
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_label, write_in_own_script
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import TALLEST, WIDTH, is_narrow
from lnbench.leaderboard.rows import Row
from lnbench.tables.headline import headline, what_was_done
from lnbench.tables.plain_names import metric_of, task_title
from lnbench.tables.words import control_units, counted, model_name, signed

_ROW, _SERIES, _AROUND, _LINES = 0.23, 0.13, 1.0, 0.2
"""Inches of a language, of a model in it, of all around them, and of the legend's second line in a column."""


@drawn_from(lambda data: ((found,) for rows in data.leaderboards if (found := headline(rows).rows)))
def own_language(rows: Sequence[Row]) -> Figure:
    """Draw one experiment by language: the change with its 95 % interval, and the range of the control's draws.

    Args:
        rows: Compared, of one selector and intervention, or adapter, in one task and metric: those of a headline.

    Raises:
        LnbenchError: there are none, or they are of several metrics.
    """
    if len({(row.task_pattern, row.metric) for row in rows}) != 1:
        raise LnbenchError(
            "own_language draws comparisons of one task and metric; choose them with headline(rows).rows"
        )
    first = rows[0]
    metric = metric_of(first.metric)
    measured = metric.unit or metric.title
    pairs = list(dict.fromkeys((row.language, row.source) for row in rows))
    models = list(dict.fromkeys(_model(row) for row in rows))
    better = {None: "", True: " (left is worse)", False: " (right is worse)"}[first.higher_is_better]
    units = list(dict.fromkeys(control_units(row.drawn_by) for row in rows if row.n_controls))
    bar = f" The grey bar reaches over the draws of {units[0]}, the line in it is their mean." if units else ""
    own = "with the adapter" if first.is_baseline else "own neurons"

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        narrow = is_narrow(drawing)
        for row in rows:
            _point(axes, row, pairs.index((row.language, row.source)), models.index(_model(row)), len(models))
        axes.axvline(0, color="black", linewidth=0.8)
        labels = [_label(language, source, narrow) for language, source in pairs]
        axes.set_yticks(range(len(pairs)), labels)
        write_in_own_script(axes.get_yticklabels(), [language for language, _ in pairs])
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"change of {measured}{better}")
        axes.margins(x=0.09)
        names = [own] if len(models) == 1 else [f"{own}, {model}" for model in models]
        legend(drawing, changes.entries(names, units, changes.ALONE), abreast=3)

    height = min(TALLEST - _LINES, _AROUND + len(pairs) * max(_ROW, _SERIES * len(models)))
    done = what_was_done(first, several=len(pairs) > 1)
    return Figure(
        name=stem("own_language", first.task_pattern, first.metric or "", first.selector, first.intervention),
        title=f"{done}: {', '.join(models)}",
        caption=(
            f"Change of {measured} ({task_title(first.task_pattern, first.task_title)}) on the same documents, against "
            f"the unchanged model, with a 95 % interval. Filled: significant after Holm's correction.{bar}"
        ),
        alt=(f"{done}: change of {measured} in {counted(len(pairs), 'language')}, {changes.seen(rows)}"),
        columns=(
            *("model", "neurons", "intervention", "language", "source", "metric", "n", "baseline", "delta", "ci_low"),
            *("ci_high", "p_holm", "significant", "control_delta", "control_delta_min", "control_delta_max"),
            "n_controls",
        ),
        rows=[
            (
                *(row.model, row.selector, row.intervention, row.language, row.source, row.metric, row.n, row.baseline),
                *(
                    row.delta,
                    row.ci_low,
                    row.ci_high,
                    row.p_holm,
                    row.significant,
                    *changes.controls(row),
                    row.n_controls,
                ),
            )
            for row in rows
        ],
        size=(WIDTH, height),
        column_height=height + _LINES,
        paint=paint,
    )


def _model(row: Row) -> str:
    return " ".join(filter(None, (model_name(row.model), row.revision, row.quantization)))


def _label(language: str, source: str | None, narrow: bool) -> str:
    names = [language_label(code, native=not narrow and source is None) for code in (source, language) if code]
    return " → ".join(names)


def _point(axes: Axes, row: Row, place: int, number: int, count: int) -> None:
    """Draw one comparison; where it is alone on its line, with its number."""
    height = changes.place_of(place, number, count)
    changes.draw_change(axes, row, height, number, changes.ALONE)
    if count == 1:
        reached = (row.ci_high, row.delta, changes.controls(row)[2], 0.0)
        end = max(value for value in reached if value is not None)
        axes.annotate(signed(row.delta, 2), (end, height), (4, 0), textcoords="offset points", va="center", size=7.5)
