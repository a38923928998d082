"""Continuations side by side as a table."""

from __future__ import annotations

from lnbench.analysis.side_by_side import Continuation, SideBySide
from lnbench.tables.table import Cell, Table, TableRow

_NOTE = "in brackets: each line's language by fastText's lid.176, or und; of short lines a guess"


def side_by_side_table(result: SideBySide, *, numbers: bool = False) -> Table:
    """Return prompts (rows) by interventions (columns), each line with its language before it.

    Args:
        result: What :func:`lnbench.generate_side_by_side` returned.
        numbers: Put the continuations where a table has its numbers, as CSV and JSON have them by column.
    """
    rows = []
    for prompt, seed, row in result.rows():
        labels = [prompt if seed is None else f"{prompt} (seed {seed})"]
        texts = [_marked(one) for one in row]
        cells = [Cell(text) for text in texts]
        rows.append(TableRow(labels, cells) if numbers else TableRow([*labels, *texts], [], section=True))
    title = "Continuations under each intervention"
    if numbers:
        return Table(title, ["prompt"], result.columns, rows, notes=[_NOTE])
    return Table(title, ["prompt", *result.columns], [], rows, notes=[_NOTE])


def _marked(continuation: Continuation) -> str:
    return "\n".join(f"[{line.language}] {line.text}" for line in continuation.lines)
