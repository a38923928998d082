"""Metrics that have no room to move: accuracy where nearly everything is right without intervention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isclose

from lnbench.leaderboard.rows import Row, tables_of


def at_ceiling(table: Sequence[Row]) -> bool:
    """Return whether the rows of one metric say little, because the model as it is can hardly do better.

    So it is where the unchanged model has the best score, 1 with higher as better and 0 with lower, in more than half
    of the languages, no score is above 1, and nothing changes significantly.
    """
    scores = [row.value for row in table if row.value is not None]
    unchanged = [row.value for row in table if row.is_baseline and row.value is not None]
    before = unchanged or [row.baseline for row in table if row.baseline is not None]
    better = table[0].higher_is_better if table else None
    if better is None or not before or max(scores, default=0.0) > 1 or any(row.significant for row in table):
        return False
    best = 1.0 if better else 0.0
    return 2 * sum(isclose(value, best, abs_tol=1e-9) for value in before) > len(before)


def ordered_tables(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each table in their order, those of a metric at its ceiling last."""
    return sorted(tables_of(rows), key=at_ceiling)
