"""Neurons in common: between languages, between selectors, between two halves of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from lnbench import analysis
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure
from lnbench.figures.heatmaps import MANY, cells, fit, language_columns, language_rows, matrix_size, numbers
from lnbench.figures.labels import language_label, language_name, write_in_own_script
from lnbench.figures.naming import model_name, percent, selector_name, several, stem
from lnbench.figures.style import AMOUNTS, NEUTRAL, TALLEST, WIDTH, series
from lnbench.neurons import NeuronSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


def language_overlap(neurons: NeuronSet) -> Figure:
    """A matrix: the share of one language's neurons that are another's too, and what chance would give.

    Where language i's row is dark in column j, changing i's neurons changes most of j's as well.

    Raises:
        LnbenchError: the set has no languages.
    """
    from matplotlib.colors import Normalize

    found = analysis.language_overlap(neurons)
    languages = found.languages
    if not languages:
        raise LnbenchError("this NeuronSet has no languages to draw")
    own = found.counts.diagonal().tolist()
    others = ~np.eye(len(languages), dtype=bool)
    share, chance = found.share.numpy(), found.expected_share.numpy()
    alone = [count / total if total else float("nan") for count, total in zip(found.alone.tolist(), own, strict=True)]
    with_chance = len(languages) <= MANY

    def text(row: int, column: int) -> str:
        if row == column:
            return f"{own[row]:,}"
        if not own[row]:
            return "–"
        told = percent(share[row, column])
        return f"{told}\nchance {percent(chance[row, column])}" if with_chance else told

    def paint(drawing: Drawing) -> None:
        axes, rest = drawing.subplots(1, 2, width_ratios=[len(languages), 1])
        scale = Normalize(0, 1)
        mesh = cells(axes, np.where(others, share, np.nan), AMOUNTS, scale)
        language_rows(axes, languages)
        axes.set(ylabel="of this language's neurons …", xlabel="… so many are this language's too")
        places = range(len(languages))
        written = numbers(axes, mesh, [[text(row, column) for column in places] for row in places])
        beside = cells(rest, np.array(alone)[:, None], AMOUNTS, scale)
        rest.set(yticks=[], xticks=[0.5], xticklabels=["no\nother's"])
        shares = [["–" if np.isnan(one) else percent(one)] for one in alone]
        written_beside = numbers(rest, beside, shares)
        bar = drawing.colorbar(mesh, ax=[axes, rest], label="share of the row's neurons", aspect=30)
        bar.ax.yaxis.set_major_formatter("{x:.0%}")
        language_columns(drawing, axes, languages)
        fit(drawing, {axes: written, rest: written_beside})

    most = _most(found, others)
    return Figure(
        name=stem("language_overlap", selector_name(neurons)),
        title=f"Neurons that languages share: {selector_name(neurons)}, {model_name(neurons.model)}",
        caption=(
            "Each row is a language i, each column a language j; a cell is the share of i's neurons that are j's too. "
            "Where row i is dark in column j, changing i's neurons changes many of j's, and j's text can suffer as "
            "well. On the diagonal stands the number of i's neurons; the last column is the share that no other "
            "language has. By chance, with as many neurons in each layer, "
            f"{_range(chance[others])} would be shared. {most[0]}"
        ),
        alt=f"Matrix of the neurons that {several(len(languages), 'language')} share. {most[1]}",
        columns=("language", "other", "neurons", "shared", "share", "jaccard", "expected", "expected_share", "excess"),
        rows=[
            (
                *(code, other, own[row], int(found.counts[row, column])),
                *(_number(one[row, column]) for one in (share, found.jaccard, found.expected, chance, found.excess)),
            )
            for row, code in enumerate(languages)
            for column, other in enumerate(languages)
            if row != column
        ],
        size=matrix_size(len(languages), languages),
        paint=paint,
    )


def _most(found: analysis.LanguageOverlap, others: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[str, str]:
    """The two languages that share the largest share of one's neurons, in a sentence or two."""
    share = np.where(others & ~np.isnan(found.share.numpy()), found.share.numpy(), -1)
    if share.max(initial=-1) <= 0:
        return "No two languages share a neuron.", "No two share a neuron."
    row, column = np.unravel_index(share.argmax(), share.shape)
    one, other = (language_name(found.languages[place]) for place in (row, column))
    first = (
        f"Most is shared by {one} and {other}: {int(found.counts[row, column])} of {one}'s "
        f"{int(found.counts[row, row])} neurons are {other}'s too, where chance would give "
        f"{float(found.expected[row, column]):.1f}."
    )
    return first, f"Most is shared by {one} with {other}: {percent(share[row, column])} of {one}'s."


def selector_overlap(first: NeuronSet, second: NeuronSet) -> Figure:
    """Bars: of each language's neurons, those of the first selector only, of both, and of the second only.

    Raises:
        LnbenchError: the sets are of different models, or share no language.
    """
    found = analysis.selector_overlap(first, second)
    names = selector_name(first), selector_name(second)
    if names[0] == names[1]:
        names = f"{names[0]} (first)", f"{names[1]} (second)"
    languages = list(found)
    parts = {
        f"{names[0]} only": [one.first - one.shared for one in found.values()],
        "both": [one.shared for one in found.values()],
        f"{names[1]} only": [one.second - one.shared for one in found.values()],
    }

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        left = np.zeros(len(languages))
        for number, (name, counts) in enumerate(parts.items()):
            colour, pattern, _ = series(number)
            axes.barh(languages, counts, 0.7, left=left, color=colour, hatch=pattern, edgecolor="white", label=name)
            left += counts
        for row, one in enumerate(found.values()):
            told = f"both {one.shared:,} (chance {one.expected:.1f}), Jaccard {one.jaccard:.2f}"
            axes.annotate(told, (left[row], row), (4, 0), textcoords="offset points", va="center", fontsize=7)
        _language_axis(axes, languages)
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
            f"Bars of the neurons that {names[0]} and {names[1]} chose for {several(len(languages), 'language')}: "
            f"{shared:,} of {total:,} were chosen by both."
        ),
        columns=("language", "name", *analysis.Agreement._fields),
        rows=[(code, language_name(code), *map(_number, one)) for code, one in found.items()],
        size=(WIDTH, min(TALLEST, 1.2 + 0.27 * len(languages))),
        paint=paint,
    )


def stability(found: analysis.Stability) -> Figure:
    """Points: how much of a selection comes back from the other half of the text, and what chance would give.

    Raises:
        LnbenchError: it has no rows.
    """
    if not found.rows:
        raise LnbenchError("these results have no rows to draw")
    selectors = list(dict.fromkeys(row.selector for row in found.rows))
    languages = list(dict.fromkeys(row.language for row in found.rows))

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        step = 0.7 / len(selectors)
        for number, selector in enumerate(selectors):
            rows = [row for row in found.rows if row.selector == selector]
            places = [languages.index(row.language) + (number - (len(selectors) - 1) / 2) * step for row in rows]
            colour, _, marker = series(number)
            axes.plot(_points(row.jaccard for row in rows), places, marker, color=colour, label=selector, markersize=5)
            axes.plot(_points(row.expected_jaccard for row in rows), places, "|", color=NEUTRAL, markersize=9)
        axes.plot([], [], "|", color=NEUTRAL, markersize=9, label="by chance")
        _language_axis(axes, languages)
        axes.set(xlabel="Jaccard index of the two halves' selections (1: the same neurons)", xlim=(-0.02, 1.02))
        axes.grid(axis="both")
        drawing.legend(loc="outside lower center", ncols=min(3, len(selectors) + 1))

    indices = [row.jaccard for row in found.rows if row.jaccard is not None] or [0.0]
    return Figure(
        name="stability",
        title=f"Neurons found again in the other half of the text: {model_name(found.model)}",
        caption=(
            "Each selector ran on two halves of the text, which have no document in common. A point is the Jaccard "
            "index of the two selections, the neurons in both divided by those in either; the grey line is what "
            "chance would give, with as many neurons in each layer. 1: the same neurons; near the line: noise. A "
            "language without neurons in either has no point."
        ),
        alt=(
            f"Points of {several(len(selectors), 'selector')} and {several(len(languages), 'language')}; Jaccard "
            f"indices from {min(indices):.2f} to {max(indices):.2f}."
        ),
        columns=tuple(analysis.StabilityRow.model_fields),
        rows=[tuple(row.model_dump().values()) for row in found.rows],
        size=(WIDTH, min(TALLEST, 1.3 + len(languages) * max(0.3, 0.14 * len(selectors)))),
        paint=paint,
    )


def _points(values: Iterable[float | None]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Numbers to draw; nothing is drawn where there is none."""
    return np.array(list(values), dtype=float)


def _language_axis(axes: Axes, languages: list[str]) -> None:
    axes.set_yticks(range(len(languages)), [language_label(code) for code in languages])
    write_in_own_script(axes.get_yticklabels(), languages)
    axes.set_ylim(len(languages) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _number(value: Any) -> int | float | None:
    """A number for a table: none where it is not defined."""
    if isinstance(value, int):
        return value
    return None if np.isnan(float(value)) else float(value)


def _range(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    known = values[~np.isnan(values)]
    if not len(known):
        return "none"
    low, high = percent(float(known.min())), percent(float(known.max()))
    return low if low == high else f"{low} to {high}"
