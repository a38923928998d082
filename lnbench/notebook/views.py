"""Results as HTML: what they are, in a table, and where their numbers are, as a small heatmap. All of it is escaped."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure as Drawing
from numpy.typing import ArrayLike, NDArray

from lnbench.analysis.activation_averages import activation_averages
from lnbench.analysis.overlap import language_overlap
from lnbench.figures import heatmaps
from lnbench.figures.labels import selector_label
from lnbench.figures.style import AMOUNTS, CHANGES, styled
from lnbench.leaderboard.rows import Leaderboard, Row, tables_of
from lnbench.model.architectures import layout_of, units_at
from lnbench.neurons import NeuronSet
from lnbench.override_values import LayerOverride, Override
from lnbench.shown import html_of
from lnbench.statistics.language_statistics import Statistics
from lnbench.sweeps.records import Record, Records
from lnbench.tables.leaderboard import leaderboard_tables, neurons_of
from lnbench.tables.render import html
from lnbench.tables.table import Cell, Table, TableRow
from lnbench.tables.words import counted

_BINS = 32
"""Columns of the heatmap of an override: each is so many neighbouring units."""
_DECILES = np.arange(0.05, 1, 0.1)
_MOST_TABLES = 4
"""Of a leaderboard; a sentence says how many more there are."""
_MOST_LINES, _MOST_LETTERS = 40, 60
"""Rows of a heatmap whose names are written, and letters below it."""
_RESOLUTION = 110
"""Dots per inch: a heatmap is about 500 pixels wide, and takes a few kilobytes."""


@html_of.register
def _neurons(neurons: NeuronSet) -> str:
    total = sum(neurons.widths)
    rows = []
    alone = language_overlap(neurons).alone.tolist() if neurons.languages else []
    for language, own in zip(neurons, alone, strict=True):
        count = neurons.count(language)
        share = Cell(own / count, ".0%") if count else Cell()
        layers = int((neurons.per_layer(language) > 0).sum())
        rows.append(TableRow([language], [Cell(count, ","), Cell(count / total, ".2%"), Cell(layers, ","), share]))
    title = f"{selector_label(neurons)}: {neurons.model}, {layout_of(neurons.widths)} {units_at(neurons.site)}"
    table = Table(title, ["language"], ["neurons", "of all", "layers", "no other language's"], rows)
    if not rows:
        return _together([table])
    counts = np.stack([neurons.per_layer(language).numpy() for language in neurons])
    alt = f"Neurons per language and layer, at most {counts.max():,}."
    return _together([table], _heatmap(counts, neurons.languages, range(neurons.layers), "layer", "neurons", alt))


@html_of.register
def _statistics(statistics: Statistics) -> str:
    rows = []
    for site in statistics.sites:
        averages = activation_averages({statistics.language: statistics}, site)[statistics.language]
        active = statistics.at(site).positive_rate[statistics.at(site).exists].double().nanmean()
        cells_of = [Cell(value, ".3f") for value in averages.values()]
        rows.append(TableRow([site], [*cells_of, Cell(float(active), ".1%")]))
    units = f"{layout_of(statistics.widths)} {units_at(statistics.site)}"
    title = f"Statistics of {statistics.language}: {statistics.model}, {units}, {statistics.tokens:,} tokens"
    notes = ["Averages over all units of each unit's mean and percentiles, in the model's own unit."]
    table = Table(title, ["site"], [*averages, "tokens active"], rows, notes=notes)
    rates = statistics.positive_rate.double().numpy()
    known = [rate[~np.isnan(rate)] for rate in rates]
    values = np.array([np.quantile(rate, _DECILES) if rate.size else np.full(len(_DECILES), np.nan) for rate in known])
    alt = "Share of tokens at which units are active, per layer, from the rarest tenth of its units to the commonest."
    names = [f"{decile:.0%}" for decile in _DECILES]
    picture = _heatmap(values.T, names, range(statistics.layers), "layer", "tokens active", alt, "units, by activity")
    return _together([table], picture)


@html_of.register
def _override(override: Override) -> str:
    groups: dict[tuple[str, str], list[tuple[int, LayerOverride]]] = {}
    for layer, part in override.parts:
        operation = part.operation if isinstance(part.operation, str) else "function"
        groups.setdefault((part.site or "as applied", operation), []).append((layer, part))
    rows = []
    for labels, parts in groups.items():
        written = [part.values.double().flatten().numpy() for _, part in parts if part.values is not None]
        values = np.concatenate([[], *written])
        known = (values.min(), values.mean(), values.max()) if values.size else (None, None, None)
        ends = [Cell(value if value is None else float(value), ".3g") for value in known]
        neurons = sum(part.indices.numel() for _, part in parts)
        rows.append(TableRow([*labels], [Cell(neurons, ","), Cell(len({layer for layer, _ in parts}), ","), *ends]))
    columns = ["neurons", "layers", "lowest value", "mean", "highest"]
    title = f"Override{f' by {override.made_by}' if override.made_by else ''}: {counted(override.neurons, 'neuron')}"
    table = Table(title, ["site", "operation"], columns, rows)
    if not override.neurons:
        return _together([table])
    highest = max(int(part.indices.max()) for _, part in override.parts if part.indices.numel())
    layers = sorted(override.layers)
    edges = np.linspace(0, highest + 1, min(_BINS, highest + 1) + 1)
    places = {layer: [part.indices.numpy() for at, part in override.parts if at == layer] for layer in layers}
    values = np.stack([np.histogram(np.concatenate(own), edges)[0] for own in places.values()])
    alt = f"Neurons changed per layer and place in it, in {counted(len(layers), 'layer')}."
    names = [f"{edge:.0f}" for edge in edges[:-1]]
    return _together([table], _heatmap(values, layers, names, "neurons from", "changed", alt, "layer"))


@html_of.register
def _records(records: Records) -> str:
    kinds: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        kinds.setdefault((record.task, record.metric or "failed"), []).append(record)
    rows = [
        TableRow(
            [*labels], [Cell(len(own), ","), Cell(len({one.cell for one in own}), ","), Cell(_documents(own), ",")]
        )
        for labels, own in kinds.items()
    ]
    models = dict.fromkeys(record.model for record in records)
    cells = counted(len({record.cell for record in records}), "cell")
    title = f"{counted(len(records), 'record')} of {cells}: {', '.join(models)}"
    table = Table(title, ["task", "metric"], ["records", "cells", "documents"], rows)
    counts = Counter((record.intervention, record.language) for record in records)
    return _together([table], _matrix_of(counts, "records"))


def _documents(records: Sequence[Record]) -> int | None:
    return max((record.n for record in records if record.n is not None), default=None)


@html_of.register
def _leaderboard(leaderboard: Leaderboard) -> str:
    tables = leaderboard_tables(leaderboard)
    compared = [row for row in leaderboard if row.delta is not None and row.control_of is None]
    of_first = tables_of(compared)[:1]
    pictures = [_changes(own) for own in of_first]
    more = len(tables) - _MOST_TABLES
    rest = Markup("<p>{} more; lnbench leaderboard prints all.</p>").format(counted(more, "table")) if more > 0 else ""
    return _together(tables[:_MOST_TABLES], *pictures, rest)


def _changes(rows: Sequence[Row]) -> Markup:
    deltas = {(f"{row.intervention}, {neurons_of(row)}", row.pair): float(row.delta or 0.0) for row in rows}
    return _matrix_of(deltas, f"change of {rows[0].metric}", CHANGES)


def _matrix_of(values: Mapping[tuple[str, str], float], what: str, colours: str = AMOUNTS) -> Markup:
    """Return the heatmap of numbers by the names of their rows and columns."""
    rows, columns = (list(dict.fromkeys(key[side] for key in values)) for side in (0, 1))
    if not values:
        return Markup("")
    matrix = np.array([[values.get((row, column), np.nan) for column in columns] for row in rows])
    alt = f"{what} by {counted(len(rows), 'row')} and {counted(len(columns), 'column')}."
    return _heatmap(matrix, rows, columns, "", what, alt, colours=colours)


def _heatmap(
    values: ArrayLike,
    rows: Iterable[object],
    columns: Iterable[object],
    below: str,
    what: str,
    alt: str,
    beside: str = "",
    colours: str = AMOUNTS,
) -> Markup:
    """Return a small heatmap as an image in the page.

    Args:
        values: ``[rows, columns]``; NaN where there is none.
        rows: Names of the rows, from top to bottom.
        columns: Names of the columns.
        below: What the columns are.
        what: What is coloured.
        alt: A sentence for readers who cannot see it.
        beside: What the rows are.
        colours: Colour map.
    """
    matrix: NDArray[np.float64] = np.asarray(values, dtype=float)
    finite = matrix[np.isfinite(matrix)]
    largest = float(np.abs(finite).max()) if finite.size else 1.0
    norm = CenteredNorm(0, largest or 1.0) if colours == CHANGES else Normalize(0, largest or 1.0)
    names, headings = ([str(name) for name in some] for some in (rows, columns))
    with styled():
        drawing = Drawing(
            figsize=(4.6, 0.75 + 0.16 * min(len(names), _MOST_LINES)), layout="constrained", dpi=_RESOLUTION
        )
        axes = drawing.subplots()
        mesh = heatmaps.cells(axes, matrix, colours, norm)
        _name(axes.set_yticks, names, _MOST_LINES)
        _name(axes.set_xticks, headings, max(1, _MOST_LETTERS // (1 + max(map(len, headings)))))
        axes.set(xlabel=below, ylabel=beside)
        drawing.colorbar(mesh, ax=axes, label=what, aspect=10)
        image = io.BytesIO()
        drawing.savefig(image, format="png", metadata={"Software": None})
    encoded = base64.b64encode(image.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, encoded)


def _name(set_ticks: Callable[..., Any], names: Sequence[str], most: int) -> None:
    """Name rows or columns, at most so many of them."""
    step = max(1, -(-len(names) // most))
    shown = range(0, len(names), step)
    set_ticks([place + 0.5 for place in shown], [names[place][:_MOST_LETTERS] for place in shown])


def _together(tables: Sequence[Table], *rest: Markup | str) -> str:
    parts = [*map(html, tables), *(Markup(part) for part in rest if part)]
    return str(Markup("<div>{}</div>").format(Markup("").join(parts)))
