"""What interventions change in a task's metric, by language."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure as Drawing

from lnbench.figures import changes
from lnbench.figures.figure import Figure, stem
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_name
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import TALLEST, WIDTH, WIDTHS
from lnbench.leaderboard.rows import Row, tables_of
from lnbench.tables.plain_names import metric_of, metric_title, plain_names, task_title
from lnbench.tables.words import counted, model_name

_OVERRIDE_SETUP = "override_setup"
_VARYING = ("finetune", "adapter", "seed", "limit", _OVERRIDE_SETUP)
"""What may differ between rows of one language, selector and intervention, and then names a series."""


@drawn_from(lambda data: ((table,) for rows in data.leaderboards for table in tables_of(changes.compared(rows))))
def interventions(rows: Sequence[Row]) -> Figure:
    """Draw the change of one metric by intervention and language, with 95 % intervals, and that of controls.

    Args:
        rows: Of one model, task and metric (:attr:`Row.measured_on`), in any languages. Rows without a comparison
            (no intervention, failed) and those of the controls themselves are passed over.

    Raises:
        LnbenchError: rows of several models, tasks or metrics, or none with a comparison.
    """
    compared = changes.of_one_metric(rows)
    first = compared[0]
    varying = [name for name in _VARYING if _varies(compared, name)]
    languages = list(dict.fromkeys(row.language for row in compared))
    names = list(dict.fromkeys(row.intervention for row in compared))
    plain = plain_names("intervention", names)
    selectors = plain_names("selector", dict.fromkeys(row.selector for row in compared))
    labels = {_series(row, row.selector, varying): _series(row, selectors[row.selector], varying) for row in compared}
    metric = metric_of(first.metric)
    measured = metric.unit or metric.title
    units = changes.units(compared)
    panel = len(names) * max(0.17, 0.11 * len(labels))

    def paint(drawing: Drawing) -> None:
        panels = changes.panels_of(drawing, languages, f"change of {measured}")
        for axes, code in zip(panels, languages, strict=True):
            for number, label in enumerate(labels):
                for row in compared:
                    if row.language == code and _series(row, row.selector, varying) == label:
                        place = changes.place_of(names.index(row.intervention), number, len(labels))
                        changes.draw_change(axes, row, place, number)
            axes.axvline(0, color="black", linewidth=0.6)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(names)), [plain[name] for name in names])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        legend(drawing, changes.entries(list(labels.values()), [units] if units else []), abreast=2)
        changes.name_panels(drawing, panels, languages)

    heights = (1.2 + changes.height_of_panels(len(languages), panel, width) for width in (WIDTH, WIDTHS["column"]))
    height, column_height = (min(TALLEST, inches) for inches in heights)
    return Figure(
        name=stem("interventions", first.task_pattern, first.metric or ""),
        title=(
            f"What interventions change: {metric_title(first.metric, first.higher_is_better)}, "
            f"{task_title(first.task_pattern, first.task_title)}, {model_name(first.model)}"
        ),
        caption=(
            f"Change of {measured} on the same documents, against the model without intervention, with a 95 % "
            "interval; one panel for each evaluation language, whose neurons are changed. "
            f"{changes.better(first, 'Right of')}Filled: significant after Holm's correction. The grey bar reaches "
            f"over the draws of {units or 'a control'}, the line in it is their mean; without a bar "
            "there was no control."
        ),
        alt=(
            f"Changes of {measured} by {counted(len(names), 'intervention')} in "
            f"{counted(len(languages), 'language')}, {changes.seen(compared)}"
        ),
        columns=(
            *("neurons", "language", "name", "intervention", "metric", "n", "baseline", "value", "delta", "ci_low"),
            *("ci_high", "p_holm", "significant", "control_mean_delta", "control_min_delta", "control_max_delta"),
            *("n_controls", "control_significant"),
        ),
        rows=[
            (
                *(
                    _series(row, row.selector, varying),
                    row.language,
                    language_name(row.language),
                    row.intervention,
                    row.metric,
                ),
                *(row.n, row.baseline, row.value, row.delta, row.ci_low, row.ci_high, row.p_holm, row.significant),
                *(*changes.controls(row), row.n_controls, row.control_significant),
            )
            for row in compared
        ],
        size=(WIDTH, height),
        column_height=column_height,
        paint=paint,
    )


def _varies(rows: Sequence[Row], name: str) -> bool:
    """Return whether a field distinguishes rows; selectors differ in their override setup in any case."""
    groups: dict[str, set[object]] = {}
    for row in rows:
        groups.setdefault(row.selector if name == _OVERRIDE_SETUP else "", set()).add(getattr(row, name))
    return any(len(values) > 1 for values in groups.values())


def _series(row: Row, selector: str, varying: Sequence[str]) -> str:
    """Return whose neurons a row is about, by a name of its selector, and what else distinguishes it from others."""
    rest = [f"{name} {getattr(row, name)}" for name in varying if getattr(row, name) not in (None, "none")]
    return ", ".join([selector, *rest])
