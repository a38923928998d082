"""The rows of the leaderboard as a page's sortable table shows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lnbench.leaderboard import Row
from lnbench.report.findings import worse
from lnbench.report.text import number, p_value, signed, span


@dataclass(frozen=True)
class Column:
    """One column: its heading, and what a row has there.

    Attributes:
        text: What is shown.
        key: What it is sorted by: text, or a number (None last).
        optional: Left out where all rows have the same.
        filtered: Whether the page can be narrowed to one of its values.
    """

    name: str
    text: Callable[[Row], str]
    key: Callable[[Row], str | float | None]
    numeric: bool = False
    optional: bool = False
    filtered: bool = False


@dataclass(frozen=True)
class Spot:
    """One cell of the table."""

    text: str
    key: str
    marks: tuple[tuple[str, str], ...] = ()
    """Sign and meaning."""
    tone: str = ""
    """``worse`` or ``better``."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    spots: Sequence[Spot]
    kind: str
    """``significant``, ``plain``, ``control`` or ``failed``."""
    command: int
    """Number of the command that repeats it."""


@dataclass(frozen=True)
class Board:
    """The table, what it can be narrowed to, and the commands behind it."""

    columns: Sequence[Column]
    constants: Sequence[tuple[str, str]]
    """Columns that are left out, and what all rows have there."""
    lines: Sequence[Line]
    choices: Mapping[int, Sequence[str]]
    """Number of a column → its values."""
    commands: Sequence[str]
    total: int
    """Rows that there are, shown or not."""


def neurons(row: Row) -> str:
    """Whose neurons were overridden: a selector's, or as many random ones."""
    if row.control_of is None:
        return row.selector
    return f"random like {row.control_of} #{row.control_seed}"


def _changed(row: Row) -> str:
    return signed(row.delta)


def _column(name: str, of: Callable[[Row], str], *, optional: bool = False, filtered: bool = True) -> Column:
    return Column(name, of, of, optional=optional, filtered=filtered)


def _number(name: str, text: Callable[[Row], str], key: Callable[[Row], float | None]) -> Column:
    return Column(name, text, key, numeric=True)


COLUMNS = (
    _column("Model", lambda row: " ".join(filter(None, (row.model, row.dtype, row.quantization))), optional=True),
    _column("Adapter", lambda row: row.finetune, optional=True),
    _column("Task", lambda row: row.task_pattern, optional=True),
    _column("Language", lambda row: row.language),
    _column("Metric", lambda row: row.metric or "failed"),
    _column("Neurons", neurons),
    _column("Intervention", lambda row: row.intervention),
    _number("Value", lambda row: number(row.value), lambda row: row.value),
    _number("Compared with", lambda row: number(row.baseline), lambda row: row.baseline),
    _number("Change", _changed, lambda row: row.delta),
    _number("95 % interval", lambda row: span(row.ci_low, row.ci_high), lambda row: row.ci_low),
    _number("p, corrected", lambda row: p_value(row.p_holm), lambda row: row.p_holm),
    _number("Random neurons", lambda row: _controls(row), lambda row: row.control),
    _number("Change to random", lambda row: signed(row.control_delta), lambda row: row.control_delta),
    _number("p to random", lambda row: p_value(row.control_p_holm), lambda row: row.control_p_holm),
    _number("Documents", lambda row: "–" if row.n is None else f"{row.n:,}", lambda row: row.n),
    _column("Setup", lambda row: row.setup or "–", optional=True, filtered=False),
    _column("Seed", lambda row: str(row.seed), optional=True, filtered=False),
    _column("Limit", lambda row: "all" if row.limit is None else f"{row.limit:g}", optional=True, filtered=False),
)
"""Of the table, in its order."""
_WITH_MARKS, _WITH_CONTROL_MARKS = "Change", "Change to random"


def _controls(row: Row) -> str:
    if row.control is None:
        return "–"
    draws = "" if row.n_controls == 1 else f" [{number(row.control_min)} to {number(row.control_max)}]"
    return number(row.control) + draws


def board(rows: Sequence[Row], total: int) -> Board:
    """The table of some rows, of ``total``."""
    constants = [column for column in COLUMNS if column.optional and len({column.text(row) for row in rows}) == 1]
    shown = [column for column in COLUMNS if column not in constants]
    commands = {command: place for place, command in enumerate(dict.fromkeys(row.command for row in rows))}
    return Board(
        shown,
        [(column.name, column.text(rows[0])) for column in constants],
        [Line([_spot(column, row) for column in shown], _kind(row), commands[row.command]) for row in rows],
        {
            place: list(dict.fromkeys(column.text(row) for row in rows))
            for place, column in enumerate(shown)
            if column.filtered
        },
        list(commands),
        total,
    )


def _kind(row: Row) -> str:
    if row.failed:
        return "failed"
    if row.control_of is not None:
        return "control"
    return "significant" if row.significant else "plain"


def _spot(column: Column, row: Row) -> Spot:
    key = column.key(row)
    marks: tuple[tuple[str, str], ...] = ()
    text, tone = column.text(row), ""
    if column.name == _WITH_MARKS and row.significant:
        marks = (("*", "differs significantly from no intervention"),)
        if row.higher_is_better is not None:
            tone = "worse" if worse(row) else "better"
    if column.name == _WITH_CONTROL_MARKS and row.control_significant:
        marks = (("†", "differs significantly from random neurons"),)
    known = key is not None and not (isinstance(key, float) and not math.isfinite(key))
    return Spot(text, str(key) if known else "", marks, tone)
