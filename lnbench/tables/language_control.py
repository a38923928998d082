"""Scores of language control in generated text as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lnbench.language_control.lcb import Average, Group, Scores, averages
from lnbench.language_control.steering import (
    Interval,
    RatedAnswer,
    Steering,
    by_group,
    overall,
    pair_of,
    source_of,
    target_of,
)
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


def steering_table(answers: Sequence[RatedAnswer], title: str, *, diagonal: bool = False) -> Table:
    """Return the scores of each pair, target and source, and of all.

    Args:
        answers: Under one condition.
        title: What that condition is.
        diagonal: Whether pairs whose source is their target are counted.
    """
    groupings = [pair_of, target_of, source_of, overall]
    groups = [by_group(answers, grouping, diagonal=diagonal) for grouping in groupings]
    rows = [
        TableRow([f"{source} → {target}"], _steering_cells(own), section=number == len(group) - 1)
        for group in groups
        for number, ((source, target), own) in enumerate(group.items())
    ]
    notes = [
        "LFS: answers in the target language; relevance: mean rating / 2; S: harmonic mean of both. "
        "[95 % intervals over draws of questions]",
        "Pairs whose source is their target are counted."
        if diagonal
        else "Pairs whose source is their target are left out.",
    ]
    if (unread := sum(own.unparsable for own in groups[-1].values())) > 0:
        notes.append(f"{unread} ratings could not be read, and are left out of the mean.")
    return Table(title, ["pair"], ["n", "LFS", "relevance", "S", "unparsable"], rows, notes=notes)


def steering_matrix(answers: Sequence[RatedAnswer], title: str) -> Table:
    """Return S, or LFS where nothing was rated, of each source (rows) and target (columns)."""
    scores = by_group(answers, pair_of, diagonal=True)
    sources, targets = (list(dict.fromkeys(pair[side] for pair in scores)) for side in (0, 1))
    rated = any(own.score is not None for own in scores.values())
    rows = []
    for source in sources:
        own = [scores.get((source, target)) for target in targets]
        values = [None if cell is None else cell.score if rated else cell.lfs for cell in own]
        rows.append(
            TableRow(
                [source],
                [Cell(value, ".1%", emphasis=source == target) for value, target in zip(values, targets, strict=True)],
            )
        )
    return Table(f"{title}: {'S' if rated else 'LFS'}, source × target", ["source"], targets, rows)


def _steering_cells(own: Steering) -> list[Cell]:
    return [
        Cell(own.n, ","),
        _with_interval(own.lfs, own.lfs_interval),
        _with_interval(own.relevance, own.relevance_interval),
        _with_interval(own.score, own.score_interval),
        Cell(own.unparsable, ","),
    ]


def _with_interval(value: float | None, interval: Interval | None) -> Cell:
    low, high = interval or (None, None)
    shown = None if value is None or low is None or high is None else f"{value:.1%} [{low:.1%}, {high:.1%}]"
    return Cell(value, ".1%", shown=shown, low=low, high=high)
