"""How many neurons each language has, and in which layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lnbench import analysis
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure
from lnbench.figures.heatmaps import cells, fit, language_columns, names_height, numbers
from lnbench.figures.labels import language_label, language_name, write_in_own_script
from lnbench.figures.naming import model_name, percent, selector_name, several, stem
from lnbench.figures.style import AMOUNTS, TALLEST, WIDTH, series
from lnbench.neurons import NeuronSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


def neurons_per_language(sets: Mapping[str, NeuronSet]) -> Figure:
    """Bars: neurons of each language, one bar a selector.

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
            f"({several(layers, 'layer')} × {width:,}). A neuron can belong to several languages."
        ),
        alt=(
            f"Bars of the neurons of {several(len(languages), 'language')} by {several(len(sets), 'selector')}, "
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


def neurons_per_layer(neurons: NeuronSet) -> Figure:
    """A map of layers × languages: the number of neurons, and their share of the layer.

    Raises:
        LnbenchError: the set has no languages.
    """
    from matplotlib.colors import Normalize

    languages, counts, shares = analysis.neurons_per_layer(neurons)
    if not languages:
        raise LnbenchError("this NeuronSet has no languages to draw")
    values = counts.T.double().numpy()
    most = max(1, int(counts.max()))

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        mesh = cells(axes, values, AMOUNTS, Normalize(0, most))
        axes.invert_yaxis()  # The first layer is the lowest.
        step = max(1, round(neurons.layers / 40))
        axes.set_yticks(
            np.arange(0, neurons.layers, step) + 0.5, [str(layer) for layer in range(0, neurons.layers, step)]
        )
        axes.set_ylabel("layer")
        bar = drawing.colorbar(mesh, ax=axes, label="neurons", aspect=30)
        percents = bar.ax.secondary_yaxis(
            "left",
            functions=(
                lambda count: 100 * np.asarray(count) / neurons.width,
                lambda share: np.asarray(share) * neurons.width / 100,
            ),
        )
        percents.set_ylabel("% of the layer")
        language_columns(drawing, axes, languages)
        texts = [[f"{int(value)}" if value else "" for value in line] for line in values]
        fit(drawing, {axes: numbers(axes, mesh, texts)})

    peaks = {code: int(row.argmax()) for code, row in zip(languages, counts, strict=True) if row.any()}
    peak = ", ".join(f"{language_name(code)} {layer}" for code, layer in peaks.items())
    return Figure(
        name=stem("neurons_per_layer", selector_name(neurons)),
        title=f"Neurons by layer and language: {selector_name(neurons)}, {model_name(neurons.model)}",
        caption=(
            "Number of each language's neurons in each layer; the first layer, next to the input, is at the bottom. "
            f"An empty cell has none. A layer has {neurons.width:,} neurons. Layer with most: {peak or 'none'}."
        ),
        alt=(
            f"Map of {several(neurons.layers, 'layer')} by {several(len(languages), 'language')}; at most "
            f"{several(most, 'neuron')}, {percent(most / neurons.width)} of a layer, belong to one language."
        ),
        columns=("language", "name", "layer", "neurons", "share_of_layer"),
        rows=[
            (code, language_name(code), layer, int(counts[row, layer]), float(shares[row, layer]))
            for row, code in enumerate(languages)
            for layer in range(neurons.layers)
        ],
        size=(WIDTH, min(TALLEST, max(1.6, 0.4 + 0.165 * neurons.layers) + names_height(languages))),
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
