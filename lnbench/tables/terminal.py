"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from lnbench.analysis import Stability
from lnbench.console import numeric_table
from lnbench.neurons import NeuronSet
from lnbench.statistics import Statistics, store

_PERCENTS = (5, 10, 25, 50, 75, 90, 95)


def layers_table(neurons: NeuronSet) -> Table:
    """Neurons per layer (rows) and language (columns)."""
    table = numeric_table("Neurons per layer and language", "layer", *neurons.languages)
    columns = [neurons.per_layer(language).tolist() for language in neurons.languages]
    for layer, counts in enumerate(zip(*columns, strict=True)):
        table.add_row(str(layer), *(f"{count:,}" if count else "·" for count in counts))
    table.add_section()
    table.add_row("all", *(f"{sum(column):,}" for column in columns))
    return table


def overlap_table(neurons: NeuronSet) -> Table:
    """Neurons shared by each pair of languages; a language's own count on the diagonal."""
    languages, counts, jaccard = neurons.overlap()
    table = numeric_table("Neurons shared by two languages (Jaccard index); own count on the diagonal", "", *languages)
    for row, language in enumerate(languages):
        cells = [
            f"{int(counts[row, column]):,}" + ("" if row == column else f" ({float(jaccard[row, column]):.2f})")
            for column in range(len(languages))
        ]
        table.add_row(language, *cells)
    return table


def agreement_table(neurons: NeuronSet, other: NeuronSet) -> Table:
    """Neurons that two NeuronSets share, by language."""
    table = numeric_table("Neurons that both files name", "language", "first", "second", "shared", "Jaccard")
    for language, found in neurons.compare(other).items():
        row = (found.own, found.other, found.intersection)
        table.add_row(language, *(f"{count:,}" for count in row), f"{found.jaccard:.2f}")
    return table


def stability_table(found: Stability) -> Table:
    """How far the selections on two halves of a text agree."""
    headings = ("language", "first half", "second half", "shared", "by chance", "Jaccard", "by chance")
    table = numeric_table("Neurons found again in the other half of the text", "selector", *headings)
    for row in found.rows:
        counts = (f"{row.first:,}", f"{row.second:,}", f"{row.shared:,}", f"{row.expected:.1f}")
        indices = ("–" if one is None else f"{one:.2f}" for one in (row.jaccard, row.expected_jaccard))
        table.add_row(row.selector, row.language, *counts, *indices)
    return table


def averages_table(folder: Path) -> Table:
    """Averages over all neurons of each language's Statistics, at both sites."""
    table = numeric_table(
        "Averages over all neurons",
        "language",
        "site",
        "tokens",
        "> 0",
        "mean",
        "std",
        *(f"P{percent}" for percent in _PERCENTS),
        "rank error",
        caption="rank error: the most that a percentile here may be off by for any neuron, as a share of the tokens",
    )
    for language in store.languages(folder):
        loaded = Statistics.load(folder, language)
        for site in sorted(loaded.sites):
            one = loaded.at(site)
            values = (one.mean, one.std, *(one.quantile(percent / 100) for percent in _PERCENTS))
            table.add_row(
                language,
                site,
                f"{one.tokens:,}",
                f"{float(one.positive_rate.mean()):.1%}",
                *(f"{float(value.mean()):+.3f}" for value in values),
                f"≤ {float(one.rank_error.max()):.4f}",
            )
    return table


def counts_table(neurons: Mapping[str, NeuronSet], languages: Sequence[str]) -> Table:
    """Neurons per selector and language."""
    table = numeric_table("Language-specific neurons", "selector", *languages)
    for name, found in neurons.items():
        table.add_row(name, *(f"{found.count(language):,}" for language in languages))
    return table
