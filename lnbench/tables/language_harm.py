"""Whose text a perplexity matrix's changes harm, and which shared neurons explain it: tables for a page."""

from __future__ import annotations

from collections.abc import Mapping

from lnbench.perplexity.matrix import Cell as Change
from lnbench.perplexity.matrix import Contrast, PerplexityMatrix
from lnbench.significance import LEVEL
from lnbench.tables.findings import UNITS
from lnbench.tables.table import Cell, Table, TableRow
from lnbench.tables.words import BEYOND_CONTROLS, CORRECTED, NOTHING, SIGNIFICANT, number, percent, signed, span

_MARKS = {
    SIGNIFICANT: f"differs from the unchanged model: {CORRECTED}.",
    BEYOND_CONTROLS: "also beyond every draw of as many random neurons.",
}
_MOST_HARMED = 3
"""Other languages that are shown for each."""


def harm_tables(matrix: PerplexityMatrix, chance: Mapping[tuple[str, str], float] | None = None) -> list[Table]:
    """Return the matrix with its intervals, each row's selectivity, and the shared neurons where they are known.

    Args:
        matrix: What was measured.
        chance: Two languages → the share of the first one's neurons that would be the second's by chance.
    """
    tables = [_changes(matrix), _selectivity(matrix), _shared(matrix, chance or {})]
    return [table for table in tables if table.rows]


def _changes(matrix: PerplexityMatrix) -> Table:
    baseline = ", ".join(f"{read} {number(text.nats_per_token)}" for read, text in matrix.baseline.items())
    text = ", ".join(f"{language} {account.tokens:,}" for language, account in matrix.slices.items())
    return Table(
        "Change in nats per token. Rows: whose neurons are changed. Columns: whose text is read. Above 0, the text "
        "became less likely to the model.",
        ["neurons of"],
        [f"text of {read}" for read in matrix.read],
        [TableRow([changed], [_change(cell) for cell in matrix.row(changed)]) for changed in matrix.changed],
        _MARKS,
        [
            "In brackets the 95 % interval over blocks of text.",
            f"Text read by the unchanged model, in nats per token: {baseline}.",
            f"Tokens read in each language: {text}; block length {matrix.length}, site {matrix.site}.",
        ],
    )


def _change(cell: Change) -> Cell:
    interval = "" if cell.delta_nats_low is None else f" ({span(cell.delta_nats_low, cell.delta_nats_high, 2)})"
    beyond = BEYOND_CONTROLS if cell.exceeds_controls else ""
    return Cell(
        cell.delta_nats,
        shown=f"{signed(cell.delta_nats)}{interval}",
        low=cell.delta_nats_low,
        high=cell.delta_nats_high,
        marks=f"{SIGNIFICANT}{beyond}" if cell.p_holm < LEVEL else "",
        emphasis=cell.read == cell.changed,
    )


def _selectivity(matrix: PerplexityMatrix) -> Table:
    by_byte = {row.changed: row.bits_per_byte for row in matrix.selectivity if row.bits_per_byte is not None}
    comparable = len(by_byte) == len(matrix.selectivity)
    unit = "bits_per_byte" if comparable else "nats"
    contrasts: Mapping[str, Contrast] = by_byte if comparable else {row.changed: row for row in matrix.selectivity}
    return Table(
        f"Selectivity in {UNITS[unit]}: how much more a language's own text changes than that of the others.",
        ["neurons of"],
        ["own text", "others, mean", "difference", "95 % interval", "suffers most"],
        [
            TableRow(
                [changed],
                [
                    *(_signed(change) for change in (contrast.own, contrast.others, contrast.difference)),
                    Cell(shown=span(contrast.low, contrast.high), low=contrast.low, high=contrast.high),
                    Cell(contrast.most_harmed),
                ],
            )
            for changed, contrast in contrasts.items()
        ],
    )


def _shared(matrix: PerplexityMatrix, chance: Mapping[tuple[str, str], float]) -> Table:
    """Return for each language which others' text suffers most, and how many neurons they share."""
    rows = []
    for changed in matrix.changed:
        own = matrix.cell(changed, changed).delta_nats if changed in matrix.read else None
        others = [cell for cell in matrix.row(changed) if cell.read in matrix.shared.get(changed, {})]
        for cell in sorted(others, key=lambda cell: -cell.delta_nats)[:_MOST_HARMED]:
            shared, count = matrix.shared[changed][cell.read], matrix.neurons.get(changed)
            share = f"{shared:,} of {count:,} ({percent(shared / count)})" if count else NOTHING
            by_chance = chance.get((changed, cell.read))
            numbers = [Cell(shared, shown=share), Cell(by_chance, shown=percent(by_chance))]
            rows.append(TableRow([changed, cell.read], [_signed(cell.delta_nats), _signed(own), *numbers]))
    return Table(
        "Shared neurons, and harm to other languages: changing a neuron that both have changes both. For each language "
        f"the {_MOST_HARMED} others whose text suffers most, in nats per token.",
        ["neurons of", "text of"],
        ["its change", "change of own text", "neurons shared", "by chance"],
        rows,
        notes=["By chance: the share if each language's neurons were drawn at random, as many in each layer."],
    )


def _signed(change: float | None) -> Cell:
    return Cell(change, shown=signed(change))
