"""Where in the model each language's neurons are: a ridge per language."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.labels import language_name, language_ticks, layers_with_most, selector_label, selector_title
from lnbench.figures.registry import drawn_from, neuron_sets
from lnbench.figures.style import COLOURS, SMALLEST, TALLEST, WIDTH
from lnbench.model.architectures import units_at
from lnbench.neurons import NeuronSet
from lnbench.tables.words import counted, model_name

_HIGHEST = 1.5
"""Height of the highest ridge, where the distance between two is 1."""


@drawn_from(neuron_sets)
def layer_profile(neurons: NeuronSet) -> Figure:
    """Draw a ridge per language: the number of its neurons in each layer, from the input to the output.

    All ridges have one scale. The numbers in cells, to be looked up, are in :func:`neurons_per_layer`.

    Raises:
        LnbenchError: the set has no languages.
    """
    languages = neurons.languages
    if not languages:
        raise LnbenchError("this NeuronSet has no languages to draw")
    counts = np.array([neurons.per_layer(language).tolist() for language in languages])
    most = int(counts.max())
    scale = _HIGHEST / max(1, most)
    edges = np.arange(neurons.layers + 1) - 0.5

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        for row, (code, own) in enumerate(zip(languages, counts, strict=True)):
            colour = COLOURS[row % len(COLOURS)]
            # A later ridge is in front of the one above it, and through both the grid is seen.
            axes.stairs(row - scale * own, edges, baseline=row, fill=True, color=colour, alpha=0.75, zorder=2 + row)
            axes.stairs(row - scale * own, edges, baseline=row, color="black", linewidth=0.6, zorder=2 + row)
            text = f"{int(own.sum()):,}" if own.any() else "none"
            axes.annotate(
                text,
                (edges[-1], row),
                (4, 1),
                textcoords="offset points",
                va="bottom",
                fontsize=SMALLEST,
                annotation_clip=False,
                gid=code,
            )
        language_ticks(axes, languages)
        axes.set(xlabel="layer", ylim=(len(languages) - 0.7, -_HIGHEST - 0.1), xlim=(edges[0], edges[-1]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(units_at(neurons.site), loc="right", fontsize=SMALLEST)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)

    peak = layers_with_most(languages, counts)
    return Figure(
        name=stem("layer_profile", selector_label(neurons)),
        title=f"Where each language's neurons are: {selector_title(neurons)}, {model_name(neurons.model)}",
        caption=(
            "A ridge is a language; its height over a layer is the number of the language's neurons there, on one "
            f"scale for all: the highest has {most:,}. Layer 0 is next to the input. At the right is the language's "
            f"number of neurons in all layers. Layer with most: {peak or 'none'}."
        ),
        alt=(
            f"Ridges of {counted(len(languages), 'language')} over {counted(neurons.layers, 'layer')}. Layer with "
            f"most neurons: {peak or 'none'}."
        ),
        columns=("language", "name", "layer", "neurons", "share_of_language"),
        rows=[
            (code, language_name(code), layer, int(count), int(count) / int(own.sum()) if own.any() else None)
            for code, own in zip(languages, counts, strict=True)
            for layer, count in enumerate(own)
        ],
        size=(WIDTH, min(TALLEST, 1.3 + 0.42 * len(languages))),
        paint=paint,
    ).in_units(neurons.site)
