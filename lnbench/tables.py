"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lnbench.leaderboard import Row
from lnbench.leaderboard.grids import Grid
from lnbench.neurons import NeuronSet
from lnbench.statistics import Statistics, store

_SURPRISE = "bits_per_byte"
_SHOWN = ("acc", "exact_match", "f1")
_PERCENTS = (5, 10, 25, 50, 75, 90, 95)


def numeric_table(title: str, first: str, *others: str, caption: str | None = None) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


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
        caption="rank error: the most that a quantile of any neuron may be off by, as a share of the tokens",
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


def results_table(rows: Sequence[Row], languages: Sequence[str]) -> Table:
    """Accuracy and the change in surprise of every selector, intervention and language; else the task's own metric."""
    metrics = {row.metric for row in rows if row.metric is not None}
    shown = next((metric for metric in _SHOWN if metric in metrics), min(metrics, default="no metric"))
    compared = _SURPRISE if _SURPRISE in metrics else shown
    surprise = "More bits per byte: the model is more surprised by that language. " if compared == _SURPRISE else ""
    table = numeric_table(
        f"{shown} (change in {compared})",
        "neurons",
        "intervention",
        *languages,
        caption=f"* p < 0.05, paired over documents, after Holm's correction. {surprise}random like …: as many random "
        "neurons in the same layers, a control.",
    )
    by_cell: dict[tuple[str, str], dict[tuple[str, str | None], Row]] = {}
    for row in rows:
        selector = f"random like {row.control_of}" if row.control_of else row.selector
        by_cell.setdefault((selector, row.intervention), {})[row.language, row.metric] = row
    for (selector, intervention), found in by_cell.items():
        cells = [_result(found.get((one, shown)), found.get((one, compared))) for one in languages]
        table.add_row(selector, intervention, *cells, style="dim" if selector.startswith("random") else None)
    return table


def _result(value: Row | None, change: Row | None) -> str:
    if value is None or value.value is None or change is None or change.value is None:
        return "–"
    if change.delta is None:
        return f"{value.value:.2f} ({change.value:.2f}) "
    return f"{value.value:.2f} ({change.delta:+.2f}){'*' if change.significant else ' '}"


def grid_table(grid: Grid) -> Group:
    """A leaderboard's table for the terminal, and under it what it has to say about itself."""
    table = Table(title=Text(grid.title), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in grid.names:
        table.add_column(heading)
    for heading in grid.languages:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in grid.lines:
        table.add_row(*map(Text, line.cells), style="dim" if line.control else None)
    return Group(table, *map(Text, grid.notes), "")
