"""Mean and percentiles of activations, averaged over all neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lnbench.analysis.activation_averages import activation_averages
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.labels import language_label, language_name, write_in_own_script
from lnbench.figures.registry import drawn_from, statistics_by_site
from lnbench.figures.style import COLOURS, TALLEST, WIDTH
from lnbench.model.architectures import SITE_DESCRIPTIONS
from lnbench.tables.words import counted, model_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from lnbench.statistics import Statistics

_RANGES = (("P5", "P95", 1.2), ("P10", "P90", 4.0), ("P25", "P75", 9.0))
"""Two percentiles, and the width in points of the line between them."""


@drawn_from(statistics_by_site)
def activation_statistics(statistics: Mapping[str, Statistics], site: str | None = None) -> Figure:
    """Draw ranges of a typical neuron's activation in each language: the numbers of the paper's table 6.

    Args:
        statistics: Language → Statistics, of one model.
        site: ``post`` or ``pre``; what the first shows if None.

    Raises:
        LnbenchError: no Statistics, or nothing is known of that site.
    """
    if not statistics:
        raise LnbenchError("no Statistics to draw: name at least one language")
    first = next(iter(statistics.values()))
    seen = site or first.site
    found = activation_averages(statistics, seen)
    columns = list(next(iter(found.values())))
    languages = list(found)
    tokens = [one.tokens for one in statistics.values()]

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        for number, (low, high, thickness) in enumerate(_RANGES):
            ends = [(one[low], one[high]) for one in found.values()]
            colour = ("#9AB9CF", "#4F93BF", COLOURS[0])[number]
            axes.hlines(
                languages, *zip(*ends, strict=True), color=colour, linewidth=thickness, label=f"{low} to {high}"
            )
        means = [one["mean"] for one in found.values()]
        axes.plot(means, languages, "D", color="white", markeredgecolor="black", markersize=4.5, label="mean")
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks(range(len(languages)), [language_label(code) for code in languages])
        write_in_own_script(axes.get_yticklabels(), languages)
        axes.set_ylim(len(languages) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"activation at site {seen}, average over all neurons (the model's own unit)")
        axes.grid(axis="x")
        drawing.legend(loc="outside lower center", ncols=4)

    return Figure(
        name=stem("activation_statistics", seen),
        title=f"Activations by language, averaged over all neurons: {model_name(first.model)}, site {seen}",
        caption=(
            f"For each language, the average over all {first.layers * first.width:,} neurons of each neuron's mean "
            f"and percentiles over {min(tokens):,}{'' if len(set(tokens)) == 1 else f' to {max(tokens):,}'} tokens, "
            f"{SITE_DESCRIPTIONS[seen]}. The lines reach from the 5th to the 95th percentile, the 10th to the 90th and "
            "the 25th to the 75th."
        ),
        alt=(
            f"Ranges of activations in {counted(len(languages), 'language')}, from "
            f"{min(one['P5'] for one in found.values()):.2f} (5th percentile) to "
            f"{max(one['P95'] for one in found.values()):.2f} (95th)."
        ),
        columns=("language", "name", "tokens", *columns),
        rows=[
            (code, language_name(code), count, *one.values())
            for (code, one), count in zip(found.items(), tokens, strict=True)
        ],
        size=(WIDTH, min(TALLEST, 1.3 + 0.3 * len(languages))),
        paint=paint,
    )
