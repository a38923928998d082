"""Each language's mean activation and percentiles, averaged over all neurons (the paper's table 6)."""

from __future__ import annotations

from collections.abc import Mapping

from lnbench.statistics.language_statistics import Statistics

LEVELS = (0.05, 0.1, 0.25, 0.75, 0.9, 0.95)
"""The levels of table 6."""
COLUMNS = ("mean", *(f"P{round(100 * level)}" for level in LEVELS))


def activation_averages(statistics: Mapping[str, Statistics], site: str | None = None) -> dict[str, dict[str, float]]:
    """The average over all L·d neurons of each neuron's mean, P5, P10, P25, P75, P90 and P95.

    Args:
        statistics: Language → Statistics.
        site: ``post`` or ``pre``; what each shows if None.

    Returns:
        Language → ``mean``, ``P5`` … ``P95``, in the activation's own unit.

    Raises:
        LnbenchError: nothing is known of that site.
    """
    averages = {}
    for language, one in statistics.items():
        seen = one.at(site or one.site)
        values = (seen.mean, *(seen.quantile(level) for level in LEVELS))
        averages[language] = {name: float(value.double().mean()) for name, value in zip(COLUMNS, values, strict=True)}
    return averages
