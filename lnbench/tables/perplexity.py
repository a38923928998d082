"""Perplexity matrices as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lnbench.analysis.overlap import language_overlap
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import Contrast, MatrixCell, PerplexityMatrix, Selectivity
from lnbench.significance import LEVEL
from lnbench.tables.caveats import matrix_caveats
from lnbench.tables.findings import UNITS, shared_neurons
from lnbench.tables.specificity import specificity_table
from lnbench.tables.table import EMPTY, Cell, Table, TableRow
from lnbench.tables.words import BEYOND_CONTROLS, SIGNIFICANT, marks_of, percent

_MOST_HARMED = 3
"""Other languages that are shown for each."""
_READING = (
    "Rows: whose neurons are changed; columns: whose text is read. Above 0 the text became less likely. Only bits per "
    "byte are comparable between languages. own − others: change of the row's own text less the mean of the others', "
    "with its 95 % interval."
)


def matrix_tables(matrix: PerplexityMatrix) -> list[Table]:
    """Return the matrix in nats per token and in bits per byte, what to know of it, and how specific it is."""
    notes = [_READING, *shared_neurons(matrix), *matrix_caveats(matrix)]
    specificity = specificity_table(matrix)
    changes = [change_table(matrix, "nats"), change_table(matrix, "bits_per_byte", notes=notes)]
    return [*changes, *([] if specificity is None else [specificity])]


def change_table(
    matrix: PerplexityMatrix, unit: str, *, with_interval: bool = False, notes: Sequence[str] = ()
) -> Table:
    """Return the change of each cell in one of :data:`~lnbench.tables.findings.UNITS`, with each row's selectivity.

    Args:
        matrix: What was measured.
        unit: The unit.
        with_interval: Whether each change is written with its 95 % interval.
        notes: Sentences below.
    """
    selectivity = {row.changed: row for row in matrix.selectivity}
    baseline = "nats_per_token" if unit == "nats" else unit
    unchanged = [Cell(getattr(matrix.baseline.get(read), baseline, None)) for read in matrix.read]
    rows = [TableRow(["- (unchanged)"], [EMPTY, *unchanged, EMPTY], quiet=True, section=True)]
    for changed in matrix.changed:
        cells = [
            Cell(
                getattr(cell, f"delta_{unit}"),
                "+.1f" if unit == "perplexity" else "+.3f",
                low=getattr(cell, f"delta_{unit}_low"),
                high=getattr(cell, f"delta_{unit}_high"),
                with_interval=with_interval,
                marks=marks(cell),
                emphasis=cell.read == changed,
            )
            for cell in matrix.row(changed)
        ]
        contrast = _contrast(selectivity.get(changed), unit)
        own = Cell() if contrast is None else _difference(contrast)
        rows.append(TableRow([changed], [Cell(matrix.neurons[changed], ","), *cells, own]))
    return Table(
        f"Change in {UNITS[unit]} by {matrix.intervention} of {matrix.selector}, {matrix.model}",
        ["neurons of"],
        ["neurons", *matrix.read, "own − others"],
        rows,
        marks_of(matrix.control),
        notes,
        best=dict.fromkeys([*matrix.read, "own − others"], "highest"),
    ).in_units(matrix.site)


def marks(cell: MatrixCell) -> str:
    """Return ``*`` where a change is significant, ``*†`` where it differs from random neurons as well."""
    if cell.p_holm >= LEVEL:
        return ""
    return SIGNIFICANT + BEYOND_CONTROLS * (cell.control_p_holm is not None and cell.control_p_holm < LEVEL)


def _contrast(row: Selectivity | None, unit: str) -> Contrast | None:
    """Return one row's own text against the others' in a unit, where it was measured."""
    if row is None or unit == "perplexity":
        return None
    return row if unit == "nats" else row.bits_per_byte


def _difference(contrast: Contrast) -> Cell:
    return Cell(contrast.difference, "+.3f", low=contrast.low, high=contrast.high, with_interval=True)


def selectivity_table(matrix: PerplexityMatrix) -> Table:
    """Return how much more each language's own text changes than the others', in the unit that compares languages."""
    unit = "nats" if any(row.bits_per_byte is None for row in matrix.selectivity) else "bits_per_byte"
    contrasts = {row.changed: _contrast(row, unit) or row for row in matrix.selectivity}
    rows = []
    for changed, contrast in contrasts.items():
        means = [Cell(contrast.own, "+.3f"), Cell(contrast.others, "+.3f")]
        rows.append(TableRow([changed], [*means, _difference(contrast), Cell(contrast.most_harmed)]))
    return Table(
        f"Selectivity in {UNITS[unit]}: how much more a language's own text changes than that of the others.",
        ["neurons of"],
        ["own text", "others, mean", "difference [95 % interval]", "suffers most"],
        rows,
    ).in_units(matrix.site)


def shared_table(matrix: PerplexityMatrix, neurons: NeuronSet | None, unit: str = "nats") -> Table | None:
    """Return, for each language, which others' text suffers most, and how many neurons they share; None without any.

    Args:
        matrix: What was measured.
        neurons: The set whose neurons were changed, if it is at hand: it says what chance would share.
        unit: One of :data:`~lnbench.tables.findings.UNITS`, that every cell has.
    """

    def change(cell: MatrixCell) -> float:
        return float(getattr(cell, f"delta_{unit}"))

    chances = {} if neurons is None else _chances(neurons)
    rows = []
    for changed in matrix.changed:
        own = change(matrix.cell(changed, changed)) if changed in matrix.read else None
        shared, count = matrix.shared.get(changed, {}), matrix.neurons.get(changed)
        others = [cell for cell in matrix.row(changed) if cell.read in shared]
        for cell in sorted(others, key=lambda cell: -change(cell))[:_MOST_HARMED]:
            both, chance = shared[cell.read], chances.get((changed, cell.read))
            share = Cell(both, shown=f"{both:,} of {count:,} ({percent(both / count)})") if count else Cell()
            changes = [Cell(change(cell), "+.3f"), Cell(own, "+.3f")]
            by_chance = Cell(chance, shown=None if chance is None else percent(chance))
            rows.append(TableRow([changed, cell.read], [*changes, share, by_chance]))
    if not rows:
        return None
    return Table(
        "Shared neurons, and harm to other languages: changing a neuron that both have changes both. For each language "
        f"the {_MOST_HARMED} others whose text suffers most, in {UNITS[unit]}.",
        ["neurons of", "text of"],
        ["its change", "change of own text", "neurons shared", "by chance"],
        rows,
        notes=["By chance: the share if each language's neurons were drawn at random, as many in each layer."],
    ).in_units(matrix.site)


def _chances(neurons: NeuronSet) -> dict[tuple[str, str], float]:
    """Return, for two languages, the share of the first one's neurons that would be the second's by chance."""
    overlap = language_overlap(neurons)
    return {
        (language, other): share
        for language, row in zip(overlap.languages, overlap.expected_share.tolist(), strict=True)
        for other, share in zip(overlap.languages, row, strict=True)
        if not math.isnan(share)
    }
