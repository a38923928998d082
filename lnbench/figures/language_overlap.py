"""Neurons that languages share."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray

from lnbench.analysis import overlap as analysis
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.heatmaps import MANY, cells, colour_bar, fit, language_columns, language_rows, matrix_size, numbers
from lnbench.figures.labels import language_name, selector_label, selector_title
from lnbench.figures.registry import drawn_from, neuron_sets
from lnbench.figures.style import AMOUNTS
from lnbench.model.architectures import units_at
from lnbench.neurons import NeuronSet
from lnbench.tables.words import counted, model_name, round_percent


@drawn_from(lambda data: (sets for sets in neuron_sets(data) if len(sets[0].languages) > 1))
def language_overlap(neurons: NeuronSet) -> Figure:
    """Draw a matrix: the share of one language's neurons that are another's too, and what chance would give.

    Where language i's row is dark in column j, changing i's neurons changes most of j's as well.

    Raises:
        LnbenchError: the set has no languages.
    """
    overlap = analysis.language_overlap(neurons)
    languages = overlap.languages
    if not languages:
        raise LnbenchError("this NeuronSet has no languages to draw")
    own = overlap.counts.diagonal().tolist()
    others = ~np.eye(len(languages), dtype=bool)
    share, chance = overlap.share.numpy(), overlap.expected_share.numpy()
    alone = (overlap.alone.double() / overlap.counts.diagonal()).numpy()
    with_chance = len(languages) <= MANY
    units = units_at(neurons.site)

    def text(row: int, column: int) -> str:
        if row == column:
            return f"{own[row]:,}"
        if not own[row]:
            return "–"
        percent = round_percent(share[row, column])
        return f"{percent}\nchance {round_percent(chance[row, column])}" if with_chance else percent

    def paint(drawing: Drawing) -> None:
        axes, rest = drawing.subplots(1, 2, width_ratios=[len(languages), 1])
        scale = Normalize(0, 1)
        mesh = cells(axes, np.where(others, share, np.nan), AMOUNTS, scale)
        language_rows(drawing, axes, languages, len(languages))
        axes.set(ylabel=f"of this language's {units} …", xlabel="… so many are this language's too")
        places = range(len(languages))
        written = numbers(axes, mesh, [[text(row, column) for column in places] for row in places])
        beside = cells(rest, alone[:, None], AMOUNTS, scale)
        rest.set(yticks=[], xticks=[0.5], xticklabels=["no\nother's"])
        shares = [["–" if np.isnan(value) else round_percent(value)] for value in alone]
        written_beside = numbers(rest, beside, shares)
        colour_bar(drawing, mesh, [axes, rest], f"share of the row's {units}", format="{x:.0%}")
        language_columns(drawing, axes, languages)
        fit(drawing, {axes: written, rest: written_beside})

    most = _most(overlap, others)
    matrices = (share, overlap.jaccard, overlap.expected, chance, overlap.excess)
    return Figure(
        name=stem("language_overlap", selector_label(neurons)),
        title=f"Neurons that languages share: {selector_title(neurons)}, {model_name(neurons.model)}",
        caption=(
            "Each row is a language i, each column a language j; a cell is the share of i's neurons that are j's too. "
            "Where row i is dark in column j, changing i's neurons changes many of j's, and j's text can suffer as "
            "well. On the diagonal is the number of i's neurons; the last column is the share that no other "
            "language has. By chance, with as many neurons in each layer, "
            f"{_range(chance[others])} would be shared. {most[0]}"
        ),
        alt=f"Matrix of the neurons that {counted(len(languages), 'language')} share. {most[1]}",
        columns=("language", "other", "neurons", "shared", "share", "jaccard", "expected", "expected_share", "excess"),
        rows=[
            (
                *(code, other, own[row], int(overlap.counts[row, column])),
                *(_known(float(matrix[row, column])) for matrix in matrices),
            )
            for row, code in enumerate(languages)
            for column, other in enumerate(languages)
            if row != column
        ],
        size=matrix_size(len(languages), languages),
        paint=paint,
    ).in_units(neurons.site)


def _most(overlap: analysis.LanguageOverlap, others: NDArray[np.bool_]) -> tuple[str, str]:
    """Say at length and in short which two languages share the largest share of one's neurons."""
    share = np.where(others & ~np.isnan(overlap.share.numpy()), overlap.share.numpy(), -1)
    if share.max(initial=-1) <= 0:
        return "No two languages share a neuron.", "No two share a neuron."
    row, column = np.unravel_index(share.argmax(), share.shape)
    language, other = (language_name(overlap.languages[place]) for place in (row, column))
    sentence = (
        f"Most is shared by {language} and {other}: {int(overlap.counts[row, column])} of {language}'s "
        f"{int(overlap.counts[row, row])} neurons are {other}'s too, where chance would give "
        f"{float(overlap.expected[row, column]):.1f}."
    )
    return sentence, f"Most is shared by {language} with {other}: {round_percent(share[row, column])} of {language}'s."


def _known(value: float) -> float | None:
    """Return a number for a table: none where it is not defined."""
    return None if math.isnan(value) else value


def _range(shares: NDArray[np.float64]) -> str:
    if np.isnan(shares).all():
        return "none"
    low, high = round_percent(np.nanmin(shares)), round_percent(np.nanmax(shares))
    return low if low == high else f"{low} to {high}"
