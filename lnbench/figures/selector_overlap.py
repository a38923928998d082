"""Neurons that two selectors share."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure as Drawing

from lnbench.analysis.overlap import Chance, by_chance
from lnbench.figures.figure import Figure, stem
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_axis, language_name, selector_label
from lnbench.figures.registry import FigureData, drawn_from
from lnbench.figures.style import SMALLEST, TALLEST, WIDTH, is_narrow, series
from lnbench.model.architectures import units_at
from lnbench.neurons import Agreement, NeuronSet
from lnbench.tables.words import counted, model_name

_COLUMNS = (
    *("first", "second", "shared", "share_of_first", "share_of_second", "jaccard", "expected", "expected_jaccard"),
    "excess",
)


def _pairs(data: FigureData) -> Iterator[tuple[NeuronSet, NeuronSet]]:
    """Yield every two NeuronSets of one model that have a language in common."""
    for sets in data.sets_by_model():
        pairs = combinations(list(sets.values())[: data.most_paired], 2)
        yield from (pair for pair in pairs if {*pair[0].languages} & {*pair[1].languages})


@drawn_from(_pairs)
def selector_overlap(first: NeuronSet, second: NeuronSet) -> Figure:
    """Draw bars: of each language's neurons, those of the first selector only, of both, and of the second only.

    Raises:
        LnbenchError: the sets are of different models, or share no language.
    """
    agreements = first.compare(second)
    chances = {language: by_chance(first, second, language) for language in agreements}
    names = selector_label(first), selector_label(second)
    if names[0] == names[1]:
        names = f"{names[0]} (first)", f"{names[1]} (second)"
    languages = list(agreements)
    parts = {
        f"{names[0]} only": [agreement.own - agreement.intersection for agreement in agreements.values()],
        "both": [agreement.intersection for agreement in agreements.values()],
        f"{names[1]} only": [agreement.other - agreement.intersection for agreement in agreements.values()],
    }

    def paint(drawing: Drawing) -> None:
        axes, narrow = drawing.subplots(), is_narrow(drawing)
        left = np.zeros(len(languages))
        for number, (name, counts) in enumerate(parts.items()):
            colour, pattern, _ = series(number)
            axes.barh(languages, counts, 0.7, left=left, color=colour, hatch=pattern, edgecolor="white", label=name)
            left += counts
        for row, (code, agreement) in enumerate(agreements.items()):
            chance = "" if narrow else f" (chance {chances[code].shared:.1f})"
            label = f"both {agreement.intersection:,}{chance}, Jaccard {agreement.jaccard:.2f}"
            place = (left[row], row)
            axes.annotate(label, place, (4, 0), textcoords="offset points", va="center", fontsize=SMALLEST)
        language_axis(axes, languages)
        axes.set(xlabel=units_at(first.site), xlim=(0, (2.3 if narrow else 1.8) * max(1.0, left.max())))
        axes.grid(axis="x")
        legend(drawing, abreast=3)

    total, shared = sum(map(sum, parts.values())), sum(parts["both"])
    return Figure(
        name=stem("selector_overlap", *names),
        title=f"Neurons that two selectors share: {names[0]} and {names[1]}, {model_name(first.model)}",
        caption=(
            f"For each language, the neurons that only {names[0]} chose, those that both chose, and those that only "
            f"{names[1]} chose. Beside: how many would be in both by chance, with as many in each layer; and the "
            "Jaccard index, those in both divided by those in either."
        ),
        alt=(
            f"Bars of the neurons that {names[0]} and {names[1]} chose for {counted(len(languages), 'language')}: "
            f"{shared:,} of {total:,} were chosen by both."
        ),
        columns=("language", "name", *_COLUMNS),
        rows=[(code, language_name(code), *_numbers(agreements[code], chances[code])) for code in languages],
        size=(WIDTH, min(TALLEST, 1.2 + 0.27 * len(languages))),
        paint=paint,
    ).in_units(first.site)


def _numbers(agreement: Agreement, chance: Chance) -> tuple[int | float | None, ...]:
    """Return the numbers of one language, in the order of the columns."""
    shares = (agreement.intersection / count if count else None for count in (agreement.own, agreement.other))
    return (*agreement[:3], *shares, agreement.jaccard, *chance, agreement.intersection - chance.shared)
