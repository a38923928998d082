"""A perplexity matrix for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lnbench.perplexity.notes import shared_neurons
from lnbench.perplexity.values import Cell, PerplexityMatrix, Selectivity
from lnbench.significance import LEVEL
from lnbench.tables import numeric_table

_LEGEND = (
    "Rows: whose neurons are changed; columns: whose text is read. In nats per token; above 0 text became less likely.",
    "own − others: the change of the row's own text less the mean of the others', with its 95 % interval.",
    f"* p < {LEVEL:g} after Holm's correction, against the unchanged model; † also beyond every random draw.",
)


def matrix_table(matrix: PerplexityMatrix) -> Group:
    """The matrix in nats per token with each row's selectivity, and in sentences what to know of it."""
    table: Table = numeric_table(
        f"Change in nats per token by {matrix.intervention} of {matrix.selector}, {matrix.model}",
        "neurons of",
        "neurons",
        *matrix.read,
        "own − others",
    )
    known = [f"{matrix.baseline[language].nats_per_token:.3f}" for language in matrix.read]
    table.add_row("- (nats per token)", "", *known, "", style="dim", end_section=True)
    selectivity = {row.changed: row for row in matrix.selectivity}
    for changed in matrix.changed:
        cells = [Text(_cell(cell), style="bold" if cell.read == changed else "") for cell in matrix.row(changed)]
        table.add_row(changed, f"{matrix.neurons[changed]:,}", *cells, _selectivity(selectivity.get(changed)))
    sentences = [f"{sentence}." for sentence in [*shared_neurons(matrix), *matrix.notes]]
    return Group(table, *map(Text, [*_LEGEND, *sentences, ""]))


def _cell(cell: Cell) -> str:
    significant = cell.p_holm < LEVEL
    marks = ("*" if significant else "") + ("†" if significant and cell.exceeds_controls else "")
    return f"{cell.delta_nats:+.3f}{marks}"


def _selectivity(row: Selectivity | None) -> str:
    if row is None or row.difference is None:
        return "–"
    interval = "" if row.low is None else f" [{row.low:+.3f}, {row.high:+.3f}]"
    return f"{row.difference:+.3f}{interval}"
