"""A perplexity matrix as tables and sentences."""

from __future__ import annotations

from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.significance import LEVEL, holm
from lnbench.tables.findings import shared_neurons
from lnbench.tables.reproduction import Table, TableRow, Value

_UNITS = {"delta_bits_per_byte": "bits per byte", "delta_nats": "nats per token", "delta_perplexity": "perplexity"}
"""First the one in which texts of different languages, the columns of a row, can be compared."""
_DIGITS = {"delta_nats": 3, "delta_perplexity": 1, "delta_bits_per_byte": 3}


def matrix_tables(title: str, matrix: PerplexityMatrix) -> list[Table]:
    """The change in each unit: rows, whose neurons are changed; columns, whose text is read."""
    corrected = holm([cell.p_value for cell in matrix.cells])
    significant = {(cell.changed, cell.read): p < LEVEL for cell, p in zip(matrix.cells, corrected, strict=True)}
    return [_table(title, matrix, metric, significant) for metric in _UNITS]


def _table(title: str, matrix: PerplexityMatrix, metric: str, significant: dict[tuple[str, str], bool]) -> Table:
    rows = []
    for changed in matrix.changed:
        cells: list[Value | None] = [
            Value(
                metric=metric,
                unit=_UNITS[metric],
                measured=getattr(cell, metric),
                ci_low=getattr(cell, f"{metric}_low"),
                ci_high=getattr(cell, f"{metric}_high"),
                n=matrix.slices[cell.read].tokens,
                significant=significant[changed, cell.read],
                control=cell.control_delta_nats if metric == "delta_nats" else None,
                digits=_DIGITS[metric],
            )
            for cell in matrix.row(changed)
        ]
        rows.append(TableRow(labels=[changed], cells=cells))
    what = f"{title}, in {_UNITS[metric]} (rows: whose neurons; columns: whose text)"
    return Table(title=what, row_labels=["changed"], columns=list(matrix.read), rows=rows)


def matrix_findings(matrix: PerplexityMatrix) -> list[str]:
    """In which rows the row's own text is harmed most, in each unit, and why it is not in the others."""
    rows = [changed for changed in matrix.changed if changed in matrix.read and matrix.neurons[changed]]
    found = []
    for metric, unit in _UNITS.items():
        own = [changed for changed in rows if _harms_most(matrix, changed, metric) == changed]
        why = ", the unit in which different languages can be compared" if metric == "delta_bits_per_byte" else ""
        found.append(
            f"In {unit}{why}, changing a language's neurons harms its own text most in {len(own)} of {len(rows)} rows: "
            f"{', '.join(own) or 'none'}."
        )
    return found + shared_neurons(matrix)


def _harms_most(matrix: PerplexityMatrix, changed: str, metric: str) -> str | None:
    """The language whose text a row harms most; None where it harms none, or a change is beyond floating point."""
    changes = {cell.read: getattr(cell, metric) for cell in matrix.row(changed)}
    if None in changes.values() or max(changes.values()) <= 0:
        return None
    return max(changes, key=lambda language: float(changes[language]))
