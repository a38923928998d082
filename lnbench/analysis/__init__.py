"""Numbers about NeuronSets and Statistics: shared neurons, averages of activations, neurons found again."""

from lnbench.analysis.activation_averages import activation_averages
from lnbench.analysis.overlap import Chance, LanguageOverlap, by_chance, language_overlap
from lnbench.analysis.stability import Stability, StabilityRow, compare_halves

__all__ = [
    "Chance",
    "LanguageOverlap",
    "Stability",
    "StabilityRow",
    "activation_averages",
    "by_chance",
    "compare_halves",
    "language_overlap",
]
