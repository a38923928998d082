"""How many neurons each language has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure
from lnbench.figures.labels import language_label, language_name, write_in_own_script
from lnbench.figures.registry import drawn_from, models
from lnbench.figures.style import TALLEST, WIDTH, series
from lnbench.neurons import NeuronSet
from lnbench.tables.words import counted, model_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@drawn_from(models)
def neurons_per_language(sets: Mapping[str, NeuronSet]) -> Figure:
    """Draw bars: neurons of each language, one bar per selector.

    Args:
        sets: Name of a selector → what it chose, all of one model.

    Raises:
        LnbenchError: no set, no language, or sets of several models.
    """
    if not sets:
        raise LnbenchError("no NeuronSet to draw: name at least one")
    model, layers, width = _same_model(sets)
    languages = list(dict.fromkeys(language for one in sets.values() for language in one))
    if not languages:
        raise LnbenchError("these NeuronSets have no languages to draw")
    counts = {name: [one.count(code) if code in one else None for code in languages] for name, one in sets.items()}
    total = layers * width
    thickness = 0.8 / len(sets)

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        for number, (name, values) in enumerate(counts.items()):
            colour, pattern, _ = series(number)
            places = np.arange(len(languages)) + (number - (len(sets) - 1) / 2) * thickness
            bars = axes.barh(
                places,
                [value or 0 for value in values],
                thickness * 0.9,
                color=colour,
                hatch=pattern,
                edgecolor="white" if pattern else colour,
                label=name,
            )
            axes.bar_label(bars, ["–" if value is None else f"{value:,}" for value in values], padding=3, fontsize=7)
        axes.set_yticks(range(len(languages)), [language_label(code) for code in languages])
        write_in_own_script(axes.get_yticklabels(), languages)
        axes.invert_yaxis()
        axes.set_xlabel(f"neurons (of {total:,} in the model)")
        axes.margins(x=0.1, y=0.02)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        if len(sets) > 1:
            drawing.legend(loc="outside lower center", ncols=min(len(sets), 3))

    found = [value for values in counts.values() for value in values if value is not None]
    chosen = ", ".join(sets)
    return Figure(
        name="neurons_per_language",
        title=f"Language-specific neurons by language: {model_name(model)}",
        caption=(
            f"Number of neurons that {chosen} chose for each language, of the {total:,} feed-forward neurons "
            f"({counted(layers, 'layer')} × {width:,}). A neuron can belong to several languages."
        ),
        alt=(
            f"Bars of the neurons of {counted(len(languages), 'language')} by {counted(len(sets), 'selector')}, "
            f"from {min(found):,} to {max(found):,}."
        ),
        columns=("selector", "language", "name", "neurons", "share_of_model"),
        rows=[
            (name, code, language_name(code), value, None if value is None else value / total)
            for name, values in counts.items()
            for code, value in zip(languages, values, strict=True)
        ],
        size=(WIDTH, min(TALLEST, 1.1 + len(languages) * max(0.26, 0.14 * len(sets) + 0.08))),
        paint=paint,
    )


def _same_model(sets: Mapping[str, NeuronSet]) -> tuple[str, int, int]:
    """Name, layers and width of the model that all sets belong to."""
    first = next(iter(sets.values()))
    for name, one in sets.items():
        if (one.layers, one.width) != (first.layers, first.width):
            raise LnbenchError(
                f"{name} is of {one.model} ({one.layers} layers × {one.width}), other neurons are of {first.model} "
                f"({first.layers} × {first.width}): draw each model by itself"
            )
    return first.model, first.layers, first.width
