"""What figures of changes share: a panel per language, points with intervals, and the range of the controls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from lnbench.errors import LnbenchError
from lnbench.figures.labels import language_label, write_in_own_script
from lnbench.figures.style import NEUTRAL, RANGE, WIDTH, is_narrow, series
from lnbench.leaderboard.rows import Row
from lnbench.tables.words import control_units


class Strokes(NamedTuple):
    """Sizes in points of what one comparison is drawn with."""

    marker: float
    interval: float
    """Width of the line over the interval."""
    control: float
    """Width of the bar over the control's draws."""
    mean: float
    """Height of the line at their mean."""


IN_PANELS, ALONE = Strokes(4.5, 1.1, 5, 6), Strokes(5, 1.2, 6, 8)
_ABREAST, _ABREAST_OF_MANY, _ABREAST_IN_COLUMN, _MANY = 3, 4, 2, 9
"""Panels beside one another; of more than so many languages."""
_TITLES = (language_label, partial(language_label, separator="\n"), str)
_TITLES_IN_COLUMN = (partial(language_label, native=False), str)
"""Forms of a panel's title, from the widest to the code alone."""
_TICKS = 3
"""Parts of the horizontal axis at most, in a column."""


def compared(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with a comparison, without those of the controls themselves."""
    return [row for row in rows if row.delta is not None and row.control_of is None]


def of_one_metric(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with a comparison.

    Raises:
        LnbenchError: there are none, or they are of several models, tasks or metrics.
    """
    found = compared(rows)
    if not found:
        raise LnbenchError("no row has an intervention that is compared with a baseline: nothing to draw")
    if len({(*row.measured_on, row.metric) for row in found}) > 1:
        raise LnbenchError("these rows are of several models, tasks or metrics: draw each by itself")
    return found


def abreast(languages: int, width: float) -> int:
    """Return how many panels are beside one another in a figure of so many inches."""
    most = _ABREAST_IN_COLUMN if width < WIDTH else _ABREAST_OF_MANY if languages > _MANY else _ABREAST
    return min(most, languages)


def height_of_panels(languages: int, panel: float, width: float) -> float:
    """Return inches that panels of a height take, with their titles."""
    beside = abreast(languages, width)
    return ceil(languages / beside) * (panel + (0.75 if beside > _ABREAST else 0.45))


def panels_of(drawing: Drawing, languages: Sequence[str], xlabel: str, ylabel: str | None = None) -> list[Axes]:
    """Make a panel for each language, which share their axes, with grids, names of axes and languages' fonts."""
    beside = abreast(len(languages), drawing.get_figwidth())
    grid = drawing.subplots(ceil(len(languages) / beside), beside, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flatten())
    for axes, code in zip(panels, languages, strict=False):
        axes.grid(axis="x" if ylabel is None else "both")
        write_in_own_script([axes.title], [code])
    for axes in panels[len(languages) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(languages) - beside) : len(languages)]:  # the lowest of each column
        axes.tick_params(axis="x", labelbottom=True)
        axes.set_xlabel(xlabel)
    if ylabel is not None:
        for axes in panels[: len(languages) : beside]:
            axes.set_ylabel(ylabel)
    elif is_narrow(drawing):
        panels[0].locator_params(axis="x", nbins=_TICKS)
    return panels[: len(languages)]


def name_panels(drawing: Drawing, panels: Sequence[Axes], languages: Sequence[str]) -> None:
    """Name the panels' languages, all in the first form that is nowhere wider than its panel; last of all."""
    for form in _TITLES_IN_COLUMN if is_narrow(drawing) else _TITLES:
        for axes, code in zip(panels, languages, strict=True):
            axes.set_title(form(code))
        drawing.draw_without_rendering()
        if all(axes.title.get_window_extent().width <= axes.get_window_extent().width for axes in panels):
            return


def controls(row: Row) -> tuple[float | None, float | None, float | None]:
    """Return the change under the control: the mean over draws, the lowest and the highest."""
    values = (row.control, row.control_min, row.control_max)
    mean, low, high = (None if value is None or row.baseline is None else value - row.baseline for value in values)
    return mean, low, high


def units(rows: Sequence[Row]) -> str:
    """Say what the controls of these rows change; empty without any."""
    kinds = dict.fromkeys(row.drawn_by for row in rows if row.n_controls)
    return " or ".join(map(control_units, kinds))


def place_of(line: int, number: int, count: int) -> float:
    """Return how far down a series' comparison is drawn, of ``count`` series that share a line."""
    return line + (number - (count - 1) / 2) * 0.75 / count


def draw_change(axes: Axes, row: Row, place: float, number: int, strokes: Strokes = IN_PANELS) -> None:
    """Draw one comparison with its interval, and the range of its control behind it.

    Args:
        axes: Where to.
        row: The comparison.
        place: On the vertical axis.
        number: Of its series.
        strokes: Sizes.
    """
    colour, _, marker = series(number)
    mean, low, high = controls(row)
    if mean is not None and low is not None and high is not None:
        bar: dict[str, Any] = {"color": RANGE, "linewidth": strokes.control, "solid_capstyle": "butt", "zorder": 1}
        axes.plot([low, high], [place, place], **bar)
        axes.plot([mean], [place], "|", color=NEUTRAL, markersize=strokes.mean, zorder=1.5)
    if row.ci_low is not None and row.ci_high is not None:
        axes.plot([row.ci_low, row.ci_high], [place, place], color=colour, linewidth=strokes.interval)
    face = colour if row.significant else "white"
    axes.plot([row.delta or 0.0], [place], marker, color=colour, markerfacecolor=face, markersize=strokes.marker)


def entries(labels: Sequence[str], controlled: Sequence[str], strokes: Strokes = IN_PANELS) -> list[Line2D]:
    """Return entries of a legend: one per series, and one per kind of control."""
    made = []
    for number, label in enumerate(labels):
        colour, _, marker = series(number)
        drawn: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": strokes.marker,
            "linewidth": strokes.interval,
        }
        made.append(Line2D([], [], label=label, **drawn))
    return [*made, *(Line2D([], [], color=RANGE, linewidth=IN_PANELS.control, label=one) for one in controlled)]


def better(row: Row, side: str) -> str:
    """Return on which side of 0 is better, where the task says so, and a space."""
    return {None: "", True: f"{side} 0 is better. ", False: f"{side} 0 is worse. "}[row.higher_is_better]


def seen(rows: Sequence[Row]) -> str:
    """Say the range of the changes, and how many are significant."""
    deltas = [row.delta or 0 for row in rows]
    return (
        f"from {min(deltas):+.3g} to {max(deltas):+.3g}; "
        f"{sum(row.significant or False for row in rows)} of {len(rows)} are significant."
    )
