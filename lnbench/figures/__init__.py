"""Figures: data in, a :class:`Figure` out, which is then saved as PNG, SVG, PDF and CSV, or put into a page as SVG."""

from lnbench.figures.activations import activation_statistics
from lnbench.figures.figure import FORMATS, Figure, save, svg, table
from lnbench.figures.intervention_effects import interventions
from lnbench.figures.neuron_counts import neurons_per_language, neurons_per_layer
from lnbench.figures.overlaps import language_overlap, selector_overlap, stability
from lnbench.figures.perplexity_matrix import perplexity_matrix

__all__ = [
    "FORMATS",
    "Figure",
    "activation_statistics",
    "interventions",
    "language_overlap",
    "neurons_per_language",
    "neurons_per_layer",
    "perplexity_matrix",
    "save",
    "selector_overlap",
    "stability",
    "svg",
    "table",
]
