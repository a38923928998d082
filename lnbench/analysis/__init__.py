"""Numbers about NeuronSets and Statistics: how many neurons, where, shared by whom, and found again how often."""

from lnbench.analysis.activation_averages import activation_averages
from lnbench.analysis.counts import LayerCounts, neurons_per_language, neurons_per_layer
from lnbench.analysis.overlap import Agreement, LanguageOverlap, language_overlap, selector_overlap
from lnbench.analysis.stability import Stability, StabilityRow, compare_halves

__all__ = [
    "Agreement",
    "LanguageOverlap",
    "LayerCounts",
    "Stability",
    "StabilityRow",
    "activation_averages",
    "compare_halves",
    "language_overlap",
    "neurons_per_language",
    "neurons_per_layer",
    "selector_overlap",
]
