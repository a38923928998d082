"""Mean and percentiles of activations, averaged over all neurons, or a site's other units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from matplotlib.figure import Figure as Drawing

from lnbench.analysis.activation_averages import activation_averages
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_axis, language_name
from lnbench.figures.registry import FigureData, drawn_from
from lnbench.figures.style import NESTED, TALLEST, WIDTH
from lnbench.model.architectures import SITE_DESCRIPTIONS, units_at
from lnbench.statistics import Statistics, store
from lnbench.tables.words import counted, model_name

_RANGES = (("P5", "P95", 1.2), ("P10", "P90", 4.0), ("P25", "P75", 9.0))
"""Two percentiles, and the width in points of the line between them."""


def _by_site(data: FigureData) -> Iterator[tuple[dict[str, Statistics], str]]:
    """Yield each folder's Statistics of all languages, with each site that all of them have."""
    for held in data.statistics:
        loaded = _load(held) if isinstance(held, Path) else dict(held)
        sites = set.intersection(*(set(statistics.sites) for statistics in loaded.values())) if loaded else set()
        yield from ((loaded, site) for site in sorted(sites))


def _load(folder: Path) -> dict[str, Statistics]:
    return {language: Statistics.load(folder, language) for language in store.languages(folder)}


@drawn_from(_by_site)
def activation_statistics(statistics: Mapping[str, Statistics], site: str | None = None) -> Figure:
    """Draw ranges of a typical neuron's activation in each language: the numbers of the paper's table 6.

    Args:
        statistics: Language → Statistics, of one model.
        site: Whose values; what the first shows if None.

    Raises:
        LnbenchError: no Statistics, or nothing is known of that site.
    """
    if not statistics:
        raise LnbenchError("no Statistics to draw: name at least one language")
    first = next(iter(statistics.values()))
    site = site or first.site
    averages = activation_averages(statistics, site)
    units, described = units_at(site), SITE_DESCRIPTIONS.get(site, f"at the site {site}")
    languages = list(averages)
    tokens = [of_language.tokens for of_language in statistics.values()]
    lowest, highest = (
        min(values["P5"] for values in averages.values()),
        max(values["P95"] for values in averages.values()),
    )

    def paint(drawing: Drawing) -> None:
        axes = drawing.subplots()
        for (low, high, thickness), colour in zip(_RANGES, NESTED, strict=True):
            lows, highs = ([values[name] for values in averages.values()] for name in (low, high))
            axes.hlines(languages, lows, highs, color=colour, linewidth=thickness, label=f"{low} to {high}")
        means = [values["mean"] for values in averages.values()]
        axes.plot(means, languages, "D", color="white", markeredgecolor="black", markersize=4.5, label="mean")
        axes.axvline(0, color="black", linewidth=0.6)
        language_axis(axes, languages)
        axes.set_xlabel(f"activation at site {site}, average over all {units} (the model's own unit)")
        axes.grid(axis="x")
        legend(drawing)

    return Figure(
        name=stem("activation_statistics", site),
        title=f"Activations by language, averaged over all neurons: {model_name(first.model)}, site {site}",
        caption=(
            f"For each language, the average over all {sum(first.at(site).widths):,} neurons of each neuron's mean "
            f"and percentiles over {min(tokens):,}{'' if len(set(tokens)) == 1 else f' to {max(tokens):,}'} tokens, "
            f"{described}. The lines reach from the 5th to the 95th percentile, the 10th to the 90th and "
            "the 25th to the 75th."
        ),
        alt=(
            f"Ranges of activations in {counted(len(languages), 'language')}, from {lowest:.2f} (5th percentile) to "
            f"{highest:.2f} (95th)."
        ),
        columns=("language", "name", "tokens", *averages[languages[0]]),
        rows=[
            (code, language_name(code), count, *values.values())
            for (code, values), count in zip(averages.items(), tokens, strict=True)
        ],
        size=(WIDTH, min(TALLEST, 1.3 + 0.3 * len(languages))),
        paint=paint,
    ).in_units(site)
