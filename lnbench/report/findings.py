"""The leaderboard in sentences: how much of what was compared changed, where to, and what did it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lnbench.leaderboard import Row
from lnbench.report.text import brief, counted, listed, signed
from lnbench.report.view import Finding
from lnbench.significance import LEVEL

_Way = tuple[str, Callable[[Row], bool]]
_CORRECTED = f"p < {LEVEL:g} after Holm's correction"


def compared(rows: Iterable[Row]) -> list[Row]:
    """The rows that were tested against the same model without intervention, or without adapter."""
    return [row for row in rows if row.p_holm is not None]


def overall(rows: Sequence[Row]) -> str:
    """One sentence over all tables."""
    if not (tested := compared(rows)):
        return "No cell could be compared with the same model without intervention, so nothing is said of changes."
    changed = [row for row in tested if row.significant]
    if not changed:
        return f"None of {counted(len(tested), 'comparison')} shows a significant change ({_CORRECTED})."
    return (
        f"{len(changed):,} of {counted(len(tested), 'comparison')} {'shows' if len(changed) == 1 else 'show'} a "
        f"significant change ({_CORRECTED}): {_tally(changed)}."
    )


def findings(rows: Sequence[Row]) -> list[Finding]:
    """A finding for each table: model, task and metric."""
    tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in compared(rows):
        tables[*row.measured_on, row.metric].append(row)
    return [_finding(table) for table in tables.values()]


def _finding(rows: Sequence[Row]) -> Finding:
    first = rows[0]
    title = f"{first.metric} of {first.task_pattern}, {first.model}"
    changed = [row for row in rows if row.significant]
    tested = counted(len(rows), "comparison")
    if not changed:
        return Finding(title, f"Nothing is significant in {tested}. {_largest(rows)} {_detectable(rows)}")
    parts = [f"{len(changed)} of {tested} {'is' if len(changed) == 1 else 'are'} significant: {_tally(changed)}."]
    if controlled := [row for row in changed if row.control_p_holm is not None]:
        beyond = sum(row.control_significant or False for row in controlled)
        parts.append(
            f"Of the {len(controlled)} that have a control of random neurons, {beyond or 'none'} "
            f"{'differs' if beyond == 1 else 'differ'} from it too."
        )
    by_change: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        by_change[row.finetune, row.selector, row.intervention].append(row)
    details = [_detail(some) for some in by_change.values() if any(row.significant for row in some)]
    if silent := [_change(some[0]) for some in by_change.values() if not any(row.significant for row in some)]:
        details.append(f"{listed(silent)}: no significant change.")
    return Finding(title, " ".join(parts), details)


def _ways(rows: Sequence[Row]) -> list[_Way]:
    """The directions of a change: better and worse where it is known which is which."""
    if any(row.higher_is_better is None for row in rows):
        return [("higher", lambda row: (row.delta or 0) > 0), ("lower", lambda row: (row.delta or 0) <= 0)]
    return [("worse", worse), ("better", lambda row: not worse(row))]


def worse(row: Row) -> bool:
    """Whether a change is for the worse, by what the task says of its metric."""
    return (row.delta or 0) < 0 if row.higher_is_better else (row.delta or 0) > 0


def _tally(rows: Sequence[Row]) -> str:
    counts = {name: sum(map(is_so, rows)) for name, is_so in _ways(rows)}
    whole = [f"all {name}" for name, count in counts.items() if count == len(rows) > 1]
    return listed(whole or [f"{count} {name}" for name, count in counts.items() if count])


def _detail(rows: Sequence[Row]) -> str:
    """What one change did in each language, the largest first."""
    parts = []
    changed = sorted((row for row in rows if row.significant), key=lambda row: -abs(row.delta or 0))
    for name, is_so in _ways(changed):
        if some := [f"{row.language} ({signed(row.delta)})" for row in changed if is_so(row)]:
            parts.append(f"{name} in {listed(some)}")
    if rest := [row.language for row in rows if not row.significant]:
        parts.append(f"no significant change in {listed(dict.fromkeys(rest))}")
    return f"{_change(rows[0])}: {'; '.join(parts)}."


def _least_p(documents: int) -> float:
    """The smallest p-value of the tests: where every document changed in the same direction."""
    return float(2.0 ** (1 - documents))


def _change(row: Row) -> str:
    """What was done, in words."""
    adapter = "" if row.finetune == "none" else f"adapter {row.finetune}"
    override = "" if row.intervention == "none" else f"{row.intervention} on the neurons of {row.selector}"
    return ", ".join(filter(None, (adapter, override)))


def _largest(rows: Sequence[Row]) -> str:
    row = max(rows, key=lambda row: abs(row.delta or 0))
    return f"The largest change is {signed(row.delta)}, of {row.language} by {_change(row)}."


def _detectable(rows: Sequence[Row]) -> str:
    """How large a change so many documents could have shown in a table; or that they could have shown none."""
    smallest = [row.mde for row in rows if row.mde is not None]
    documents = sorted({row.n for row in rows if row.n is not None})
    if documents and len(rows) * _least_p(documents[-1]) >= LEVEL:
        return (
            f"With {documents[-1]} documents and {len(rows)} comparisons no change, however large, can be significant "
            "after the correction: measure more documents, or compare fewer cells."
        )
    if not smallest or not documents:
        return "How large a change would have been found cannot be told from so few documents."
    few = f"{documents[0]}" if len(documents) == 1 else f"{documents[0]} to {documents[-1]}"
    low, high = brief(min(smallest)), brief(max(smallest))
    size = low if low == high else f"{low} to {high}, by cell,"
    return f"With {few} documents a change must be {size} to be found in four of five samples."
