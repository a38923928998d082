"""A perplexity matrix as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lnbench.perplexity.notes import shared_neurons
from lnbench.perplexity.values import PerplexityMatrix
from lnbench.reproduce.values import Table, TableRow, Value
from lnbench.significance import LEVEL, holm

_UNITS = {"delta_nats": "nats per token", "delta_perplexity": "perplexity", "delta_bits_per_byte": "bits per byte"}
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
    """Which languages' own text suffers most from a change of their neurons, and why others' does in the other rows."""
    own = [one.changed for one in matrix.selectivity if one.dominant]
    rows = [one.changed for one in matrix.selectivity if matrix.neurons[one.changed]]
    found = [
        f"Changing a language's neurons harms its own text most in {len(own)} of {len(rows)} rows: {_listed(own)}."
    ]
    return found + [f"{sentence}." for sentence in shared_neurons(matrix)]


def _listed(languages: Sequence[str]) -> str:
    return ", ".join(languages) or "none"
