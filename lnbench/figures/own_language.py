"""The headline's figure: what changing each language's own neurons does to that language, against a control."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from lnbench.errors import LnbenchError
from lnbench.figures import changes
from lnbench.figures.figure import Figure, stem
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_label, write_in_own_script
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import NEUTRAL, RANGE, TALLEST, WIDTH, is_narrow, series
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
        entries = [_entry(number, name) for number, name in enumerate(names)]
        entries += [Line2D([], [], color=RANGE, linewidth=5, label=unit) for unit in units]
        legend(drawing, entries, abreast=3)

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


def _entry(number: int, label: str) -> Line2D:
    colour, _, marker = series(number)
    return Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=1.2, label=label)


def _point(axes: Axes, row: Row, place: int, number: int, count: int) -> None:
    """Draw one comparison, and its control behind it."""
    colour, _, marker = series(number)
    height = place + (number - (count - 1) / 2) * 0.75 / count
    mean, low, high = changes.controls(row)
    if mean is not None and low is not None and high is not None:
        axes.plot([low, high], [height, height], color=RANGE, linewidth=6, solid_capstyle="butt", zorder=1)
        axes.plot([mean], [height], "|", color=NEUTRAL, markersize=8, zorder=1.5)
    if row.ci_low is not None and row.ci_high is not None:
        axes.plot([row.ci_low, row.ci_high], [height, height], color=colour, linewidth=1.2)
    face = colour if row.significant else "white"
    axes.plot([row.delta or 0.0], [height], marker, color=colour, markerfacecolor=face, markersize=5)
    if count == 1:
        end = max(value for value in (row.ci_high, row.delta, high, 0.0) if value is not None)
        axes.annotate(signed(row.delta, 2), (end, height), (4, 0), textcoords="offset points", va="center", size=7.5)
