"""NeuronSets, Statistics and what fine-tuning changed as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lnbench.analysis import Stability, activation_averages
from lnbench.analysis.overlap import language_overlap
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.model.architectures import POST, units_at
from lnbench.model.layout import NOT_PUBLISHED
from lnbench.neurons import NeuronSet
from lnbench.selection_account import LanguageAccount
from lnbench.statistics import Statistics, store
from lnbench.tables.table import Best, Cell, Table, TableRow
from lnbench.tables.words import listed

if TYPE_CHECKING:
    from lnbench.finetuning.inspect import SelectionDrift, WeightDrift

_CHANCE = "by chance: the index if each language's neurons were drawn at random, as many in each layer"
_SHOWN = 5
_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def _count(number: float, nothing: str | None = None) -> Cell:
    """Return a cell of a whole number; zero is written as ``nothing``, if that is given."""
    return Cell(number, ",", shown=None if number else nothing)


def _share(value: float, *, known: bool = True) -> Cell:
    """Return a cell of a change relative to what was before; none where it is not known."""
    return Cell(value, ".4%") if known else Cell()


def _highest(columns: Sequence[str]) -> dict[str, Best]:
    return dict.fromkeys(columns, "highest")


def counts_table(sets: Mapping[str, NeuronSet], languages: Sequence[str]) -> Table:
    """Return the neurons per selector and language."""
    counts = {name: [neurons.count(language) for language in languages] for name, neurons in sets.items()}
    rows = [TableRow([name], [*map(_count, per_language)]) for name, per_language in counts.items()]
    sites = {neurons.site for neurons in sets.values()}
    table = Table("Language-specific neurons", ["selector"], languages, rows, best=_highest(languages))
    return table.in_units(sites.pop()) if len(sites) == 1 else table


def account_table(neurons: NeuronSet) -> Table:
    """Return, per language, ties at the selector's cut and neurons that all languages have; – where not known."""
    rows = []
    for language in neurons:
        own = (neurons.account and neurons.account.languages.get(language)) or LanguageAccount()
        counts = [Cell() if count is None else _count(count) for count in (own.tied, own.tied_selected)]
        shares = [Cell() if share is None else Cell(share, ".0%") for share in (own.share_tied, own.share_common)]
        rows.append(TableRow([language], [*counts, *shares]))
    headings = ["equal at the cut", "of them selected", "taken out of equals", "common to all languages"]
    notes = [] if neurons.account is None else list(neurons.account.warnings((neurons.selector or {}).get("name", "-")))
    return Table("What decided the selection", ["language"], headings, rows, notes=notes).in_units(neurons.site)


def layers_table(neurons: NeuronSet) -> Table:
    """Return the neurons per layer (rows) and language (columns)."""
    per_layer = zip(*(neurons.per_layer(language).tolist() for language in neurons), strict=True)
    rows = [
        TableRow([str(layer)], [_count(count, "·") for count in counts], section=layer == neurons.layers - 1)
        for layer, counts in enumerate(per_layer)
    ]
    rows.append(TableRow(["all"], [_count(neurons.count(language)) for language in neurons], summary=True))
    table = Table(
        "Neurons per layer and language", ["layer"], neurons.languages, rows, best=_highest(neurons.languages)
    )
    return table.in_units(neurons.site)


def experts_table(neurons: NeuronSet) -> Table:
    """Return the neurons per expert (rows) and language (columns), of experts that have some; indices within them."""
    rows = []
    for layout in neurons.experts:
        for expert, own in layout.parts():
            cells = []
            for language in neurons:
                indices = neurons[language].get(layout.layer, torch.empty(0, dtype=torch.long))
                inside = indices[(indices >= own.start) & (indices < own.stop)] - own.start
                shown = ", ".join(map(str, inside[:_SHOWN].tolist())) + (" …" if len(inside) > _SHOWN else "")
                cells.append(Cell(len(inside), ",", shown=f"{len(inside):,}: {shown}" if len(inside) else "·"))
            if any(cell.value for cell in cells):
                rows.append(TableRow([str(layout.layer), str(expert)], cells))
    title = "Neurons per expert and language: how many, and their first indices in the expert"
    return Table(title, ["layer", "expert"], neurons.languages, rows, notes=[NOT_PUBLISHED])


def overlap_table(neurons: NeuronSet) -> Table:
    """Return the neurons shared by each pair of languages, beside chance; a language's own count on the diagonal."""
    order = neurons.order
    overlap = language_overlap(neurons)
    places = {language: place for place, language in enumerate(overlap.languages)}
    own = overlap.counts.diagonal().double()
    either = own[:, None] + own[None, :] - overlap.expected
    chance = overlap.expected / either.clamp(min=torch.finfo(torch.double).tiny)
    rows = []
    for language in order:
        cells = []
        for other in order:
            at = places[language], places[other]
            index = Cell(float(overlap.jaccard[at]), ".2f", bracketed=Cell(float(chance[at]), ".2f"))
            shared = Cell(int(overlap.counts[at]), ",", bracketed=index)
            cells.append(Cell(int(overlap.counts[at]), ",", emphasis=True) if language == other else shared)
        rows.append(TableRow([language], cells))
    title = "Neurons shared by two languages (Jaccard index (by chance)); own count on the diagonal"
    return Table(title, [""], order, rows, notes=[_CHANCE]).in_units(neurons.site)


def agreement_table(neurons: NeuronSet, other: NeuronSet) -> Table:
    """Return the neurons that two NeuronSets share, by language."""
    rows = [
        TableRow([language], [*map(_count, agreement[:3]), Cell(agreement.jaccard, ".2f")])
        for language, agreement in neurons.compare(other).items()
    ]
    headings = ["first", "second", "shared", "Jaccard"]
    table = Table("Neurons that both files name", ["language"], headings, rows, best=_highest(["Jaccard"]))
    return table.in_units(neurons.site)


def stability_table(stability: Stability) -> Table:
    """Return how far the selections on two halves of a text agree."""
    headings = ["first half", "second half", "shared", "by chance", "Jaccard", "by chance"]
    rows = []
    for row in stability.rows:
        cells = [*map(_count, (row.first, row.second, row.shared)), Cell(row.expected, ".1f")]
        cells += [Cell(row.jaccard, ".2f"), Cell(row.expected_jaccard, ".2f")]
        rows.append(TableRow([row.selector, row.language], cells))
    title = "Neurons found again in the other half of the text"
    return Table(title, ["selector", "language"], headings, rows, best=_highest(["Jaccard"]))


def curve_table(curve: StabilityCurve) -> Table:
    """Return how far two halves of a text choose the same neurons, by tokens read, and why reading stopped."""
    languages = curve.languages
    rows = [
        TableRow(
            [selector, f"{max(point.tokens.values()):,}"],
            [Cell(point.jaccard.get(selector, {}).get(language), ".2f") for language in languages],
        )
        for selector in curve.selectors
        for point in curve.points
    ]
    notes = [curve.why()] if curve.points and curve.stopped else []
    title = "Jaccard index of the neurons of two halves of the text, by tokens read"
    return Table(title, ["selector", "tokens"], languages, rows, notes=notes)


def averages_table(folder: Path) -> Table:
    """Return averages over all units of each language's Statistics, at every site that they have."""
    rows, seen = [], set[str]()
    for language in store.languages(folder):
        statistics = Statistics.load(folder, language)
        for site in sorted(statistics.sites):
            at_site = statistics.at(site)
            seen.add(units_at(site))
            mean, *quantiles = activation_averages({language: statistics}, site, _LEVELS)[language].values()
            values = [mean, float(at_site.std.nanmean()), *quantiles]
            error = float(at_site.rank_error.nan_to_num(0).max())
            cells = [_count(at_site.tokens), Cell(float(at_site.positive_rate.nanmean()), ".1%")]
            cells += [*(Cell(value, "+.3f") for value in values), Cell(error, ".4f", shown=f"≤ {error:.4f}")]
            rows.append(TableRow([language, site], cells))
    percentiles = [f"P{round(100 * level)}" for level in _LEVELS]
    table = Table(
        "Averages over all neurons",
        ["language", "site"],
        ["tokens", "> 0", "mean", "std", *percentiles, "rank error"],
        rows,
        notes=["rank error: the most that a percentile here may be off by for any neuron, as a share of the tokens"],
    )
    return table if seen == {units_at(POST)} else table.in_units("several")


# What fine-tuning changed


def weights_table(drift: WeightDrift) -> Table:
    """Return, per layer, the attention's change, how many neurons changed, and their mean and largest change."""
    rows = []
    for layer, change in enumerate(drift.change):
        changed = change > 0
        chosen = None if drift.chosen is None else drift.chosen[layer]
        cells = [
            _share(float(drift.attention[layer])),
            Cell() if chosen is None else _count(int(chosen.sum())),
            _count(int(changed.sum())),
            _share(float(change[changed].mean()), known=bool(changed.any())),
            _share(float(change.max())),
            Cell() if chosen is None else _count(int((changed & ~chosen).sum())),
        ]
        rows.append(TableRow([str(layer)], cells))
    share = drift.share_on_chosen
    return Table(
        "Change of the weights, relative to their norm before",
        ["layer"],
        ["attention", "neurons", "changed", "mean", "largest", "changed, not chosen"],
        rows,
        notes=[] if share is None else [f"{share:.1%} of the neurons' squared update is on the chosen neurons."],
    )


def changed_neurons_table(drift: WeightDrift, count: int = 20) -> Table:
    """Return the most changed neurons."""
    over = listed(drift.projections or ["no feed-forward projection"])
    rows = [
        TableRow(
            [str(neuron.layer), str(neuron.neuron)], [_share(neuron.change), Cell("yes" if neuron.chosen else "no")]
        )
        for neuron in drift.top(count)
    ]
    return Table(f"Most changed neurons ({over})", ["layer", "neuron"], ["change", "chosen"], rows)


def selection_table(drift: SelectionDrift, trained: NeuronSet | None = None) -> Table:
    """Return, per language, neurons selected before and after fine-tuning, and what became of the trained ones."""
    rows = []
    for language, agreement in drift.before.compare(drift.after).items():
        kept = [Cell()] * 3
        if trained is not None and language in trained:
            selected = [trained.compare(neurons)[language].intersection for neurons in drift]
            kept = [*map(_count, (trained.count(language), *selected))]
        rows.append(TableRow([language], [*map(_count, agreement[:3]), Cell(agreement.jaccard, ".2f"), *kept]))
    columns = ["before", "after", "both", "Jaccard", "trained", "selected before", "selected after"]
    return Table(
        "Neurons selected before and after fine-tuning", ["language"], columns, rows, best=_highest(["Jaccard"])
    )
