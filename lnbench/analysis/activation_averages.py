"""Each language's mean activation and percentiles, averaged over all units (the paper's table 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lnbench.statistics.language_statistics import Statistics

LEVELS = (0.05, 0.1, 0.25, 0.75, 0.9, 0.95)
"""The levels of table 6."""


def activation_averages(
    statistics: Mapping[str, Statistics], site: str | None = None, levels: Sequence[float] = LEVELS
) -> dict[str, dict[str, float]]:
    """Return the average over all L·d units of each unit's mean and percentiles.

    Args:
        statistics: Language → Statistics.
        site: what each shows if None.
        levels: Of the percentiles, 0 to 1.

    Returns:
        Language → ``mean``, ``P5`` … ``P95``, in the activation's own unit; without neurons of experts that the
        language never reaches.

    Raises:
        LnbenchError: nothing is known of that site.
    """
    averages = {}
    for language, collected in statistics.items():
        at_site = collected.at(site or collected.site)
        values = {"mean": at_site.mean, **{f"P{round(100 * level)}": at_site.quantile(level) for level in levels}}
        averages[language] = {name: float(value[at_site.exists].double().nanmean()) for name, value in values.items()}
    return averages
