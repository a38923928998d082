"""Scores of language control in generated text as tables."""

from __future__ import annotations

from collections.abc import Mapping

from lnbench.language_control.lcb import Average, Group, Scores, averages
from lnbench.tables.table import Cell, Table, TableRow

_ALL_SKIPPED = "†"


def lcb_table(scores: Mapping[Group, Scores], words: str) -> Table:
    """Return the Language Confusion Benchmark's scores per group, and its averages.

    Args:
        scores: Group → its scores.
        words: What the list of English words is called.
    """
    mean = averages(scores)
    rows = [TableRow([*group], _cells(own), section=group == list(scores)[-1]) for group, own in scores.items()]
    rows += [TableRow([*group], _cells(own), quiet=own.groups == 1) for group, own in mean.items()]
    notes = [
        "skipped: answers without a line of five words; no other score counts them.",
        "lpr: answers without a wrong line; line_acc: mean share of right lines; wpr: of the answers without a wrong "
        "line, those without an English word (ar, hi, ja, ko, ru, zh).",
        "all: mean over groups, each counted once; over all, the mean of the languages' means.",
        f"English words: {words}.",
    ]
    marks = {_ALL_SKIPPED: "every answer was skipped, which counts as 1"}
    columns = ["n", "answered", "skipped", "lpr", "line_acc", "wpr"]
    return Table("Language Confusion Benchmark", ["task", "source", "language"], columns, rows, marks, notes)


def _cells(own: Scores | Average) -> list[Cell]:
    mark = _ALL_SKIPPED if own.skipped == 1 else ""
    counts = [Cell(own.n, ","), Cell(own.answered, ",")] if isinstance(own, Scores) else [Cell(), Cell()]
    rates = [Cell(value, ".3f", marks=mark if value is not None else "") for value in (own.lpr, own.line_acc, own.wpr)]
    return [*counts, Cell(own.skipped, ".1%"), *rates]
