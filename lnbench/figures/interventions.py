"""What interventions change in a task's metric, by language."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.labels import language_label, language_name, write_in_own_script
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import NEUTRAL, TALLEST, WIDTH, series
from lnbench.leaderboard.rows import Row, tables_of
from lnbench.tables.words import control_units, counted, model_name

_OVERRIDE_SETUP = "override_setup"
_VARYING = ("finetune", "adapter", "seed", "limit", _OVERRIDE_SETUP)
"""What may differ between rows of one language, selector and intervention, and then names a series."""
_ABREAST, _ABREAST_OF_MANY, _MANY = 3, 4, 9
"""Panels beside one another; of more than so many languages."""
_TITLES = (language_label, partial(language_label, separator="\n"), str)
"""Forms of a panel's title, from the widest to the code alone."""
_BAR = "#C9C9C9"


def _compared(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with a comparison, without those of the controls themselves."""
    return [row for row in rows if row.delta is not None and row.control_of is None]


@drawn_from(lambda data: ((table,) for rows in data.leaderboards for table in tables_of(_compared(rows))))
def interventions(rows: Sequence[Row]) -> Figure:
    """Draw the change of one metric by intervention and language, with 95 % intervals, and that of controls.

    Args:
        rows: Of one model, task and metric (:attr:`Row.measured_on`), in any languages. Rows without a comparison
            (no intervention, failed) and those of the controls themselves are passed over.

    Raises:
        LnbenchError: rows of several models, tasks or metrics, or none with a comparison.
    """
    compared = _compared(rows)
    if not compared:
        raise LnbenchError("no row has an intervention that is compared with a baseline: nothing to draw")
    if len({(*row.measured_on, row.metric) for row in compared}) > 1:
        raise LnbenchError("these rows are of several models, tasks or metrics: draw each by itself")
    first = compared[0]
    varying = [name for name in _VARYING if _varies(compared, name)]
    languages = list(dict.fromkeys(row.language for row in compared))
    names = list(dict.fromkeys(row.intervention for row in compared))
    labels = list(dict.fromkeys(_series(row, varying) for row in compared))
    abreast = min(_ABREAST_OF_MANY if len(languages) > _MANY else _ABREAST, len(languages))
    down = ceil(len(languages) / abreast)
    titled = 0.75 if abreast > _ABREAST else 0.45

    def paint(drawing: Drawing) -> None:
        panels = list(drawing.subplots(down, abreast, sharex=True, sharey=True, squeeze=False).flatten())
        for axes, code in zip(panels, languages, strict=False):
            for number, label in enumerate(labels):
                own = [row for row in compared if row.language == code and _series(row, varying) == label]
                _points(axes, own, names, number, len(labels))
            axes.axvline(0, color="black", linewidth=0.6)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            write_in_own_script([axes.title], [code])
        for axes in panels[len(languages) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(languages) - abreast) : len(languages)]:  # the lowest of each column
            axes.tick_params(axis="x", labelbottom=True)
            axes.set_xlabel(f"change of {first.metric}")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        entries = _legend(labels, _units(compared))
        drawing.legend(handles=entries, loc="outside lower center", ncols=2)
        _titles(drawing, panels[: len(languages)], languages)

    deltas = [row.delta or 0 for row in compared]
    return Figure(
        name=stem("interventions", first.task_pattern, first.metric or ""),
        title=f"What interventions change: {first.metric} of {first.task_pattern}, {model_name(first.model)}",
        caption=(
            f"Change of {first.metric} on the same documents, against the model without intervention, with a 95 % "
            f"interval; one panel for each evaluation language, whose neurons are changed. {_better(first)}Filled: "
            "significant after Holm's correction. The grey bar reaches over the draws of "
            f"{_units(compared) or 'a control'}, the line in it is their mean; without a bar there was no control."
        ),
        alt=(
            f"Changes of {first.metric} by {counted(len(names), 'intervention')} in "
            f"{counted(len(languages), 'language')}, from {min(deltas):+.3g} to {max(deltas):+.3g}; "
            f"{sum(row.significant or False for row in compared)} of {len(compared)} are significant."
        ),
        columns=(
            *("neurons", "language", "name", "intervention", "metric", "n", "baseline", "value", "delta", "ci_low"),
            *("ci_high", "p_holm", "significant", "control_mean_delta", "control_min_delta", "control_max_delta"),
            *("n_controls", "control_significant"),
        ),
        rows=[
            (
                *(_series(row, varying), row.language, language_name(row.language), row.intervention, row.metric),
                *(row.n, row.baseline, row.value, row.delta, row.ci_low, row.ci_high, row.p_holm, row.significant),
                *(*_controls(row), row.n_controls, row.control_significant),
            )
            for row in compared
        ],
        size=(WIDTH, min(TALLEST, 1.2 + down * (titled + len(names) * max(0.17, 0.11 * len(labels))))),
        paint=paint,
    )


def _titles(drawing: Drawing, panels: Sequence[Axes], languages: Sequence[str]) -> None:
    """Name the panels' languages, all in the first form that is nowhere wider than its panel."""
    for form in _TITLES:
        for axes, code in zip(panels, languages, strict=True):
            axes.set_title(form(code))
        drawing.draw_without_rendering()
        if all(axes.title.get_window_extent().width <= axes.get_window_extent().width for axes in panels):
            return


def _points(axes: Axes, rows: Sequence[Row], names: Sequence[str], number: int, count: int) -> None:
    """Draw one series in one panel."""
    colour, _, marker = series(number)
    step = 0.75 / count
    for row in rows:
        place = names.index(row.intervention) + (number - (count - 1) / 2) * step
        mean, low, high = _controls(row)
        if mean is not None and low is not None and high is not None:
            axes.plot([low, high], [place, place], color=_BAR, linewidth=5, solid_capstyle="butt", zorder=1)
            axes.plot([mean], [place], "|", color=NEUTRAL, markersize=6, zorder=1.5)
        if row.ci_low is not None and row.ci_high is not None:
            axes.plot([row.ci_low, row.ci_high], [place, place], color=colour, linewidth=1.1)
        face = colour if row.significant else "white"
        axes.plot([row.delta or 0.0], [place], marker, color=colour, markerfacecolor=face, markersize=4.5)


def _units(rows: Sequence[Row]) -> str:
    """Say what the controls of these rows change; empty without any."""
    kinds = dict.fromkeys(row.drawn_by for row in rows if row.n_controls)
    return " or ".join(map(control_units, kinds))


def _legend(labels: Sequence[str], controlled: str) -> list[Line2D]:
    """Return one entry per series, and one for the controls, unless ``controlled`` is empty."""
    entries = []
    for number, label in enumerate(labels):
        colour, _, marker = series(number)
        entries.append(Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=1.1, label=label))
    if controlled:
        entries.append(Line2D([], [], color=_BAR, linewidth=5, label=controlled))
    return entries


def _varies(rows: Sequence[Row], name: str) -> bool:
    """Return whether a field distinguishes rows; selectors differ in their override setup in any case."""
    groups: dict[str, set[object]] = {}
    for row in rows:
        groups.setdefault(row.selector if name == _OVERRIDE_SETUP else "", set()).add(getattr(row, name))
    return any(len(values) > 1 for values in groups.values())


def _series(row: Row, varying: Sequence[str]) -> str:
    """Return whose neurons a row is about, and what else distinguishes it from others."""
    rest = [f"{name} {getattr(row, name)}" for name in varying if getattr(row, name) not in (None, "none")]
    return ", ".join([row.selector, *rest])


def _controls(row: Row) -> tuple[float | None, float | None, float | None]:
    """Return the change under the control: the mean over draws, the lowest and the highest."""
    values = (row.control, row.control_min, row.control_max)
    mean, low, high = (None if value is None or row.baseline is None else value - row.baseline for value in values)
    return mean, low, high


def _better(row: Row) -> str:
    """Return which direction is better, where the task says so."""
    return {None: "", True: "Right of 0 is better. ", False: "Right of 0 is worse. "}[row.higher_is_better]
