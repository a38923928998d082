"""How many neurons each language has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_name, language_ticks
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import SMALLEST, TALLEST, WIDTH, series
from lnbench.model.architectures import BANK_SITES, layout_of, units_at
from lnbench.neurons import NeuronSet
from lnbench.tables.plain_names import plain_names
from lnbench.tables.words import counted, model_name


@drawn_from(lambda data: ((sets,) for sets in data.sets_by_model()))
def neurons_per_language(sets: Mapping[str, NeuronSet]) -> Figure:
    """Draw bars: neurons of each language, one bar per selector.

    Args:
        sets: Name of a selector → what it chose, all of one model.

    Raises:
        LnbenchError: no set, no language, or sets of several models.
    """
    if not sets:
        raise LnbenchError("no NeuronSet to draw: name at least one")
    first = next(iter(sets.values()))
    for name, neurons in sets.items():
        if neurons.widths != first.widths or units_at(neurons.site) != units_at(first.site):
            raise LnbenchError(
                f"{name} is of {neurons.model} ({layout_of(neurons.widths)}), other neurons are of "
                f"{first.model} ({layout_of(first.widths)}): draw each model by itself"
            )
    languages = list(dict.fromkeys(language for neurons in sets.values() for language in neurons))
    if not languages:
        raise LnbenchError("these NeuronSets have no languages to draw")
    counts = {
        name: [neurons.count(code) if code in neurons else None for code in languages] for name, neurons in sets.items()
    }
    plain = plain_names("selector", sets)
    total = sum(first.widths)
    thickness = 0.8 / len(sets)
    kind = "feed-forward " if first.site in BANK_SITES else ""

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        for number, (name, values) in enumerate(counts.items()):
            colour, pattern, _ = series(number)
            places = np.arange(len(languages)) + (number - (len(sets) - 1) / 2) * thickness
            edge = "white" if pattern else colour
            lengths = [value or 0 for value in values]
            style: dict[str, Any] = {"color": colour, "hatch": pattern, "edgecolor": edge, "label": plain[name]}
            bars = axes.barh(places, lengths, thickness * 0.9, **style)
            axes.bar_label(
                bars, ["–" if value is None else f"{value:,}" for value in values], padding=3, fontsize=SMALLEST
            )
        language_ticks(axes, languages)
        axes.invert_yaxis()
        axes.set_xlabel(f"{units_at(first.site)} (of {total:,} in the model)")
        axes.margins(x=0.1, y=0.02)
        axes.grid(axis="x")
        if len(sets) > 1:
            legend(drawing, abreast=min(len(sets), 3))

    shown = [value for values in counts.values() for value in values if value is not None]
    return Figure(
        name="neurons_per_language",
        title=f"Language-specific neurons by language: {model_name(first.model)}",
        caption=(
            f"Number of neurons that {', '.join(plain.values())} chose for each language, of the {total:,} "
            f"{kind}neurons ({layout_of(first.widths)}). A neuron can belong to several languages."
        ),
        alt=(
            f"Bars of the neurons of {counted(len(languages), 'language')} by {counted(len(sets), 'selector')}, "
            f"from {min(shown):,} to {max(shown):,}."
        ),
        columns=("selector", "language", "name", "neurons", "share_of_model"),
        rows=[
            (name, code, language_name(code), value, None if value is None else value / total)
            for name, values in counts.items()
            for code, value in zip(languages, values, strict=True)
        ],
        size=(WIDTH, min(TALLEST, 1.1 + len(languages) * max(0.26, 0.14 * len(sets) + 0.08))),
        paint=paint,
    ).in_units(first.site)
