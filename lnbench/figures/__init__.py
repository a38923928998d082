"""Figures: data in, a :class:`Figure` out, which is then saved as PNG, SVG, PDF and CSV."""

from sys import modules

from lnbench.figures.activation_statistics import activation_statistics
from lnbench.figures.dose_response import dose_response
from lnbench.figures.figure import FORMATS, Figure, save, table
from lnbench.figures.interventions import interventions
from lnbench.figures.language_overlap import language_overlap
from lnbench.figures.layer_profile import layer_profile
from lnbench.figures.neurons_per_language import neurons_per_language
from lnbench.figures.neurons_per_layer import neurons_per_layer
from lnbench.figures.own_language import own_language
from lnbench.figures.pairs import pairs
from lnbench.figures.perplexity_matrix import perplexity_matrix
from lnbench.figures.registry import register_all
from lnbench.figures.selector_overlap import selector_overlap
from lnbench.figures.stability import stability
from lnbench.figures.stability_curve import stability_curve

__all__ = [
    "FORMATS",
    "Figure",
    "activation_statistics",
    "dose_response",
    "interventions",
    "language_overlap",
    "layer_profile",
    "neurons_per_language",
    "neurons_per_layer",
    "own_language",
    "pairs",
    "perplexity_matrix",
    "save",
    "selector_overlap",
    "stability",
    "stability_curve",
    "table",
]

register_all(modules[__name__])
