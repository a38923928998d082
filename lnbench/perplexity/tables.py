"""A perplexity matrix for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lnbench.console import numeric_table
from lnbench.perplexity.matrix import Baseline, Cell, Contrast, PerplexityMatrix, Selectivity
from lnbench.perplexity.notes import shared_neurons
from lnbench.significance import LEVEL

_LEGEND = (
    "Rows: whose neurons are changed; columns: whose text is read. Above 0 the text became less likely. Only bits per",
    "byte are comparable between languages. own − others: change of the row's own text less the mean of the others',",
    "with its 95 % interval.",
    f"* p < {LEVEL:g} after Holm's correction, against the unchanged model; † also beyond every random draw.",
)


@dataclass(frozen=True)
class _Unit:
    spoken: str
    delta: Callable[[Cell], float | None]
    baseline: Callable[[Baseline], float | None]
    contrast: Callable[[Selectivity], Contrast | None]


_UNITS = (
    _Unit("nats per token", attrgetter("delta_nats"), attrgetter("nats_per_token"), lambda row: row),
    _Unit("bits per byte", *(attrgetter(f"{one}bits_per_byte") for one in ("delta_", "", ""))),
)


def matrix_table(matrix: PerplexityMatrix) -> Group:
    """The matrix in nats per token and bits per byte with each row's selectivity; in sentences what to know of it."""
    sentences = [f"{sentence}." for sentence in [*shared_neurons(matrix), *matrix.notes]]
    return Group(*(_table(matrix, unit) for unit in _UNITS), *map(Text, [*_LEGEND, *sentences, ""]))


def _table(matrix: PerplexityMatrix, unit: _Unit) -> Table:
    table = numeric_table(
        f"Change in {unit.spoken} by {matrix.intervention} of {matrix.selector}, {matrix.model}",
        "neurons of",
        "neurons",
        *matrix.read,
        "own − others",
    )
    known = [_number(unit.baseline(matrix.baseline[language]), sign="") for language in matrix.read]
    table.add_row("- (unchanged)", "", *known, "", style="dim", end_section=True)
    selectivity = {row.changed: row for row in matrix.selectivity}
    for changed in matrix.changed:
        cells = [
            Text(_number(unit.delta(cell)) + marks(cell), style="bold" if cell.read == changed else "")
            for cell in matrix.row(changed)
        ]
        row = selectivity.get(changed)
        table.add_row(changed, f"{matrix.neurons[changed]:,}", *cells, _selectivity(row and unit.contrast(row)))
    return table


def _number(value: float | None, sign: str = "+") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def marks(cell: Cell) -> str:
    """``*`` where it is significant, ``*†`` where it is beyond every random draw as well."""
    if cell.p_holm >= LEVEL:
        return ""
    return "*†" if cell.exceeds_controls else "*"


def _selectivity(row: Contrast | None) -> str:
    if row is None or row.difference is None:
        return "–"
    interval = "" if row.low is None else f" [{row.low:+.3f}, {row.high:+.3f}]"
    return f"{row.difference:+.3f}{interval}"
