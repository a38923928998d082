"""In which layers each language's neurons are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.heatmaps import cells, colour_bar, fit, is_dense, language_columns, names_height, numbers
from lnbench.figures.labels import language_name, layers_with_most, selector_label, selector_title
from lnbench.figures.registry import drawn_from, neuron_sets
from lnbench.figures.style import AMOUNTS, TALLEST, WIDTH
from lnbench.model.architectures import units_at
from lnbench.neurons import NeuronSet
from lnbench.tables.words import counted, model_name, round_percent


@drawn_from(neuron_sets)
def neurons_per_layer(neurons: NeuronSet) -> Figure:
    """Draw a map of layers × languages: the number of neurons, and their share of the layer.

    Raises:
        LnbenchError: the set has no languages.
    """
    languages = neurons.languages
    if not languages:
        raise LnbenchError("this NeuronSet has no languages to draw")
    counts = torch.stack([neurons.per_layer(language) for language in languages])
    values = counts.T.double().numpy()
    most = max(1, int(counts.max()))

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        mesh = cells(axes, values, AMOUNTS, Normalize(0, most))
        axes.invert_yaxis()  # The first layer is the lowest.
        layers = np.arange(0, neurons.layers, max(1, round(neurons.layers / 40)))
        axes.set_yticks(layers + 0.5, list(map(str, layers)))
        axes.set_ylabel("layer")
        bar = colour_bar(drawing, mesh, [axes], units_at(neurons.site), ticks=MaxNLocator(6, integer=True))
        one_percent = neurons.width / 100
        both_ways = (lambda count: np.asarray(count) / one_percent, lambda share: np.asarray(share) * one_percent)
        if is_dense(drawing, len(languages)):
            bar.ax.secondary_xaxis("top", functions=both_ways).set_xlabel("% of the layer")
        else:
            bar.ax.secondary_yaxis("left", functions=both_ways).set_ylabel("% of the layer")
        language_columns(drawing, axes, languages)
        texts = [[f"{int(value)}" if value else "" for value in line] for line in values]
        fit(drawing, {axes: numbers(axes, mesh, texts)})

    peak = layers_with_most(languages, counts)
    return Figure(
        name=stem("neurons_per_layer", selector_label(neurons)),
        title=f"Neurons by layer and language: {selector_title(neurons)}, {model_name(neurons.model)}",
        caption=(
            "Number of each language's neurons in each layer; the first layer, next to the input, is at the bottom. "
            f"An empty cell has none. A layer has {_range(neurons.widths)} neurons. Layer with most: {peak or 'none'}."
        ),
        alt=(
            f"Map of {counted(neurons.layers, 'layer')} by {counted(len(languages), 'language')}; at most "
            f"{counted(most, 'neuron')}, {round_percent(most / neurons.width)} of a layer, belong to one language."
        ),
        columns=("language", "name", "layer", "neurons", "share_of_layer"),
        rows=[
            (
                code,
                language_name(code),
                layer,
                int(counts[row, layer]),
                int(counts[row, layer]) / max(1, neurons.widths[layer]),
            )
            for row, code in enumerate(languages)
            for layer in range(neurons.layers)
        ],
        size=(WIDTH, min(TALLEST, max(1.6, 0.4 + 0.165 * neurons.layers) + names_height(languages))),
        paint=paint,
    ).in_units(neurons.site)


def _range(widths: Sequence[int]) -> str:
    least, most = min(widths), max(widths)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"
