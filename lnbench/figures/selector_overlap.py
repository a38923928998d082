"""Neurons that two selectors share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lnbench.analysis.overlap import Chance, by_chance
from lnbench.figures.figure import Figure, stem
from lnbench.figures.labels import language_axis, language_name, selector_label
from lnbench.figures.registry import drawn_from, pairs_of_sets
from lnbench.figures.style import TALLEST, WIDTH, series
from lnbench.neurons import Agreement, NeuronSet
from lnbench.tables.words import counted, model_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_COLUMNS = (
    *("first", "second", "shared", "share_of_first", "share_of_second", "jaccard", "expected", "expected_jaccard"),
    "excess",
)


@drawn_from(pairs_of_sets)
def selector_overlap(first: NeuronSet, second: NeuronSet) -> Figure:
    """Draw bars: of each language's neurons, those of the first selector only, of both, and of the second only.

    Raises:
        LnbenchError: the sets are of different models, or share no language.
    """
    found = first.compare(second)
    chances = {language: by_chance(first, second, language) for language in found}
    names = selector_label(first), selector_label(second)
    if names[0] == names[1]:
        names = f"{names[0]} (first)", f"{names[1]} (second)"
    languages = list(found)
    parts = {
        f"{names[0]} only": [one.own - one.intersection for one in found.values()],
        "both": [one.intersection for one in found.values()],
        f"{names[1]} only": [one.other - one.intersection for one in found.values()],
    }

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        left = np.zeros(len(languages))
        for number, (name, counts) in enumerate(parts.items()):
            colour, pattern, _ = series(number)
            axes.barh(languages, counts, 0.7, left=left, color=colour, hatch=pattern, edgecolor="white", label=name)
            left += counts
        for row, (code, one) in enumerate(found.items()):
            label = f"both {one.intersection:,} (chance {chances[code].shared:.1f}), Jaccard {one.jaccard:.2f}"
            axes.annotate(label, (left[row], row), (4, 0), textcoords="offset points", va="center", fontsize=7)
        language_axis(axes, languages)
        axes.set(xlabel="neurons", xlim=(0, 1.75 * max(1.0, left.max())))
        axes.grid(axis="x")
        drawing.legend(loc="outside lower center", ncols=3)

    total, shared = (sum(one) for one in ([sum(part) for part in zip(*parts.values(), strict=True)], parts["both"]))
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
        rows=[(code, language_name(code), *_numbers(one, chances[code])) for code, one in found.items()],
        size=(WIDTH, min(TALLEST, 1.2 + 0.27 * len(languages))),
        paint=paint,
    )


def _numbers(found: Agreement, chance: Chance) -> tuple[int | float | None, ...]:
    """Return the numbers of one language, in the order of the columns."""
    shares = (found.intersection / count if count else None for count in (found.own, found.other))
    excess = found.intersection - chance.shared
    return (found.own, found.other, found.intersection, *shares, found.jaccard, *chance, excess)
