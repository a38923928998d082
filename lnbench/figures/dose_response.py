"""What more neurons change: the effect of an intervention against the number of neurons that it changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from lnbench.errors import LnbenchError
from lnbench.figures import changes
from lnbench.figures.figure import Figure, stem
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_name
from lnbench.figures.registry import FigureData, drawn_from
from lnbench.figures.style import NEUTRAL, RANGE, TALLEST, WIDTH, WIDTHS, series
from lnbench.files import fingerprint
from lnbench.host import get_host
from lnbench.leaderboard.rows import Row, tables_of
from lnbench.tables.plain_names import metric_of, metric_title, plain_names, task_title
from lnbench.tables.words import counted, model_name

_COLUMNS = (
    *("selector", "language", "name", "intervention", "neurons", "metric", "n", "baseline", "value", "delta"),
    *("ci_low", "ci_high", "p_holm", "significant", "control_mean_delta", "control_min_delta", "control_max_delta"),
    "n_controls",
)
_PANEL = 1.2
"""Inches: the height of a panel."""


def _doses(data: FigureData) -> Iterator[tuple[list[Row], str]]:
    """Yield the rows of each metric whose selectors differ in one number alone, and the name of that."""
    for rows in data.leaderboards:
        for table in tables_of(row for row in changes.compared(rows) if row.neurons and row.source is None):
            groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
            for row in table:
                for name, rest in _without_each_number(row.selector):
                    groups[name, rest, row.finetune, row.adapter, row.seed, row.limit].append(row)
            yield from ((group, name) for (name, *_), group in groups.items() if _has_doses(group))


def _without_each_number(selector: str) -> Iterator[tuple[str, str]]:
    """Yield each numeric parameter of a selector, with a fingerprint of all the rest."""
    try:
        choice = get_host().canonical("selector", selector)
    except LnbenchError:  # A file of neurons, or a selector that is not installed here.
        return
    for name, value in choice["parameters"].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            rest = {key: other for key, other in choice["parameters"].items() if key != name}
            yield name, fingerprint([choice["name"], rest])


def _has_doses(rows: Sequence[Row]) -> bool:
    counts: dict[tuple[str, str], set[int | None]] = defaultdict(set)
    for row in rows:
        counts[row.language, row.intervention].add(row.neurons)
    return any(len(doses) > 1 for doses in counts.values())


@drawn_from(_doses)
def dose_response(rows: Sequence[Row], parameter: str = "") -> Figure:
    """Draw the change of one metric against the number of neurons that are changed, with that of the controls.

    Args:
        rows: Of one model, task and metric, and of selectors that choose more neurons or fewer. Rows without a
            comparison, and those of the controls themselves, are passed over.
        parameter: What differs between the selectors, for the title.

    Raises:
        LnbenchError: rows of several models, tasks or metrics; none with a comparison; or one that does not say how
            many neurons its language has.
    """
    compared = sorted(changes.of_one_metric(rows), key=lambda row: row.neurons or 0)
    if not all(row.neurons for row in compared):
        raise LnbenchError("a row does not say how many neurons were changed: run its sweep with this version")
    first = compared[0]
    languages = list(dict.fromkeys(row.language for row in rows if row in compared))
    names = list(dict.fromkeys(row.intervention for row in compared))
    units, plain = changes.units(compared), plain_names("intervention", names)
    measured = metric_of(first.metric).unit or metric_of(first.metric).title

    def paint(drawing: Drawing) -> None:
        panels = changes.panels_of(drawing, languages, "neurons", f"change of {measured}")
        for axes, code in zip(panels, languages, strict=True):
            for number, name in enumerate(names):
                _curve(axes, [row for row in compared if (row.language, row.intervention) == (code, name)], number)
            axes.axhline(0, color="black", linewidth=0.6)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if _spread(compared) < 30 else (1,)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_minor_locator(NullLocator())
        legend(drawing, changes.entries([plain[name] for name in names], [units] if units else []))
        changes.name_panels(drawing, panels, languages)

    heights = (1.2 + changes.height_of_panels(len(languages), _PANEL, width) for width in (WIDTH, WIDTHS["column"]))
    height, column_height = (min(TALLEST, inches) for inches in heights)
    family = first.selector.partition(":")[0]
    over = f" over {parameter}" if parameter else ""
    return Figure(
        name=stem("dose_response", first.task_pattern, first.metric or "", family, parameter),
        title=(
            f"What more neurons change: {metric_title(first.metric, first.higher_is_better)}, "
            f"{task_title(first.task_pattern, first.task_title)}, {family}{over}, {model_name(first.model)}"
        ),
        caption=(
            f"Change of {measured} on the same documents, against the model without intervention, by the number of "
            f"neurons that {family} chooses for the language{over}; one panel for each language, one line for each "
            f"intervention, with 95 % intervals. {changes.better(first, 'Above')}Filled: significant after Holm's "
            f"correction. Grey: the range of the draws of {units or 'a control'}, and their mean as a line; without it "
            "there was no control."
        ),
        alt=(
            f"Changes of {measured} in {counted(len(languages), 'language')} by the number of neurons, "
            f"{min(row.neurons or 0 for row in compared):,} to {max(row.neurons or 0 for row in compared):,}, "
            f"{changes.seen(compared)}"
        ),
        columns=_COLUMNS,
        rows=[
            (
                *(row.selector, row.language, language_name(row.language), row.intervention, row.neurons, row.metric),
                *(row.n, row.baseline, row.value, row.delta, row.ci_low, row.ci_high, row.p_holm, row.significant),
                *(*changes.controls(row), row.n_controls),
            )
            for row in compared
        ],
        size=(WIDTH, height),
        column_height=column_height,
        paint=paint,
    )


def _spread(rows: Sequence[Row]) -> float:
    """Return how many times more neurons the most are than the fewest."""
    return (rows[-1].neurons or 1) / (rows[0].neurons or 1)


def _curve(axes: Axes, rows: Sequence[Row], number: int) -> None:
    """Draw one intervention in one panel, by ascending number of neurons."""
    colour, _, marker = series(number)
    controlled = [(row.neurons, *values) for row in rows if None not in (values := changes.controls(row))]
    if controlled:
        doses, means, lows, highs = zip(*controlled, strict=True)
        axes.vlines(doses, lows, highs, color=RANGE, linewidth=5, zorder=1)
        axes.plot(doses, means, color=NEUTRAL, linewidth=0.9, zorder=1.5)
    axes.plot([row.neurons or 0 for row in rows], [row.delta or 0.0 for row in rows], color=colour, linewidth=1.1)
    for row in rows:
        dose = row.neurons or 0
        if row.ci_low is not None and row.ci_high is not None:
            axes.plot([dose, dose], [row.ci_low, row.ci_high], color=colour, linewidth=1.1)
        face = colour if row.significant else "white"
        axes.plot(
            [dose], [row.delta or 0.0], marker, color=colour, markerfacecolor=face, markersize=changes.IN_PANELS.marker
        )
