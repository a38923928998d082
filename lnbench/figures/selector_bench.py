"""Selectors side by side: how selective the neurons of each are, silenced and raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure as Drawing

from lnbench.figures.figure import Figure
from lnbench.figures.style import NEUTRAL, TALLEST, WIDTH, series
from lnbench.tables.words import counted, model_name

COLUMNS = ("selector", "size", "role", "difference", "low", "high", "rho", "rho_low", "rho_high")
Row = tuple[str, str, str, float | None, float | None, float | None, float | None, float | None, float | None]


def selector_bench(model: str, interventions: Mapping[str, str], rows: Sequence[Row]) -> Figure:
    """Draw points: own − others of each selector at each size, under the intervention of each role.

    Args:
        model: Its name.
        interventions: Role → intervention, one panel each.
        rows: One per selector, size and role, as :data:`COLUMNS`; selectors in the order of the first role's rows.
    """
    names, sizes = ([*dict.fromkeys(row[column] for row in rows)] for column in (0, 1))

    def paint(drawing: Drawing) -> None:
        panels = drawing.subplots(1, len(interventions), sharey=True, squeeze=False)[0]
        step = 0.6 / len(sizes)
        for axes, (role, choice) in zip(panels, interventions.items(), strict=True):
            axes.axvline(0, color=NEUTRAL, linewidth=0.8)
            for number, size in enumerate(sizes):
                colour, _, marker = series(number)
                shift = (number - (len(sizes) - 1) / 2) * step
                of_size = [row for row in rows if row[1:3] == (size, role) and row[3] is not None]
                for name, _, _, value, low, high, *_ in of_size:
                    place = names.index(name) + shift
                    axes.plot([value], [place], marker, color=colour, markersize=5)
                    if low is not None and high is not None:
                        axes.plot([low, high], [place, place], color=colour, linewidth=1)
                axes.plot([], [], marker, color=colour, markersize=5, label=size)
            axes.set_title(choice)
            axes.set_xlabel("own − others, bits per byte")
            axes.grid(axis="x")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(handles, labels, title="size of the sets", loc="outside lower center", ncols=len(sizes))

    return Figure(
        name="selector_bench",
        title=f"How selective the neurons of each selector are: {model_name(model)}",
        caption=(
            "For each selector, the change of a language's own text when its neurons are changed, less the mean change "
            "of the other languages' texts, in bits per byte: a mean over languages, with its 95 % interval over "
            "blocks of text. Silenced, neurons of a language are selective to the right of 0; raised, to the left, "
            "where the language's own text suffers least."
        ),
        alt=(
            f"Points of {counted(len(names), 'selector')} under {' and '.join(interventions.values())}: own − others "
            "in bits per byte, at the selectors' own sizes and at one size."
        ),
        columns=COLUMNS,
        rows=rows,
        size=(WIDTH, min(TALLEST, 1.6 + 0.34 * len(names))),
        paint=paint,
    )
