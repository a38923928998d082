"""Leaderboards as tables: one per model, task and metric for people, or one line per row with every column."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

from lnbench.leaderboard.rows import Row, compared
from lnbench.significance import LEAST_DRAWS
from lnbench.specificity import MEANINGS
from lnbench.tables.caveats import (
    by_chance,
    constant_answers,
    detectable,
    failed_cells,
    row_notes,
    unspecific_neurons,
)
from lnbench.tables.ceilings import ordered_tables
from lnbench.tables.findings import worse
from lnbench.tables.plain_names import metric_title, pair_name, plain_names, task_title
from lnbench.tables.table import Best, Cell, Table, TableRow, Tone
from lnbench.tables.words import (
    BEYOND_CONTROLS,
    CORRECTED,
    NOTHING,
    SIGNIFICANT,
    control_units,
    counted,
    number,
    p_value,
    range_of,
    ratio,
    short_names,
    signed,
    span,
)

# One line per row


@dataclass(frozen=True)
class Column:
    """One column of the table with one line per row.

    Attributes:
        heading: Its name.
        cell: Row → what it has there; ``value`` is what it is sorted by.
        numeric: Whether it holds numbers.
        optional: Whether it is left out where all rows have the same.
        filtered: Whether the page can be narrowed to one of its values.
    """

    heading: str
    cell: Callable[[Row], Cell]
    numeric: bool = False
    optional: bool = False
    filtered: bool = False


def _text(heading: str, text: Callable[[Row], str], *, optional: bool = False, filtered: bool = True) -> Column:
    return Column(heading, lambda row: Cell(text(row)), optional=optional, filtered=filtered)


def _number(heading: str, field: str, text: Callable[[Row], str] | None = None) -> Column:
    """Return the column of a field, written with three decimals if ``text`` does not say how."""
    shown = text or (lambda row: number(getattr(row, field)))
    return Column(heading, lambda row: Cell(_known(getattr(row, field)), shown=shown(row)), numeric=True)


def _known(value: float | None) -> float | None:
    """Return a number to sort by; None where it is none."""
    return value if value is not None and math.isfinite(value) else None


def neurons_of(row: Row) -> str:
    """Name whose neurons were overridden: a selector's, or a control's."""
    if row.control_of is None:
        return row.selector
    return f"{row.drawn_by} like {row.control_of} #{row.control_seed}"


def _limit(row: Row) -> str:
    return "all" if row.limit is None else f"{row.limit:g}"


def _mark(row: Row) -> str:
    return SIGNIFICANT if row.significant else ""


def _control_mark(row: Row) -> str:
    return BEYOND_CONTROLS if row.control_significant else ""


def _change(row: Row) -> Cell:
    tone: Tone = "" if not row.significant or row.higher_is_better is None else "worse" if worse(row) else "better"
    return Cell(_known(row.delta), shown=signed(row.delta), marks=_mark(row), tone=tone)


def _interval(row: Row) -> Cell:
    low, high = _known(row.ci_low), _known(row.ci_high)
    return Cell(low, shown=span(row.ci_low, row.ci_high), low=low, high=high)


def _change_to_control(row: Row) -> Cell:
    return Cell(_known(row.control_delta), shown=signed(row.control_delta), marks=_control_mark(row))


def _controls(row: Row) -> str:
    draws = "" if row.n_controls <= 1 else f" [{number(row.control_min)} to {number(row.control_max)}]"
    return number(row.control) + draws


COLUMNS = [
    _text("Model", lambda row: " ".join(filter(None, (row.model, row.dtype, row.quantization))), optional=True),
    _text("Adapter", lambda row: row.finetune, optional=True),
    _text("Task", lambda row: row.task_pattern, optional=True),
    _text("Language", lambda row: row.pair),
    _text("Metric", lambda row: row.metric or "failed"),
    _text("Neurons", neurons_of),
    _text("Intervention", lambda row: row.intervention),
    _number("Value", "value"),
    _number("Compared with", "baseline"),
    Column("Change", _change, numeric=True),
    Column("95 % interval", _interval, numeric=True),
    _number("p, corrected", "p_holm", lambda row: p_value(row.p_holm)),
    _number("Control", "control", _controls),
    Column("Change to control", _change_to_control, numeric=True),
    _number("p to control", "control_p_holm", lambda row: p_value(row.control_p_holm)),
    _number("ρ", "rho", lambda row: ratio(row.rho, row.rho_low, row.rho_high)),
    _number("Documents", "n", lambda row: NOTHING if row.n is None else f"{row.n:,}"),
    _text("Setup", lambda row: row.setup or NOTHING, optional=True, filtered=False),
    _text("Seed", lambda row: str(row.seed), optional=True, filtered=False),
    _text("Limit", _limit, optional=True, filtered=False),
]
"""Columns of the table with one line per row, on the page and with ``lnbench leaderboard --rows``, in their order."""


def plain_columns(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Return, by the heading of a column of text, what its cells say → what a reader is shown in its place."""
    selectors = plain_names("selector", dict.fromkeys(row.selector for row in rows if row.control_of is None))
    controlled = plain_names("selector", dict.fromkeys(row.control_of for row in rows if row.control_of is not None))
    return {
        "Task": {row.task_pattern: task_title(row.task_pattern, row.task_title) for row in rows},
        "Language": {row.pair: pair_name(row.language, row.source) for row in rows},
        "Metric": {row.metric: metric_title(row.metric, row.higher_is_better) for row in rows if row.metric},
        "Neurons": selectors
        | {
            neurons_of(row): f"{control_units(row.drawn_by)} ({controlled[row.control_of]}) #{row.control_seed}"
            for row in rows
            if row.control_of is not None
        },
        "Intervention": plain_names("intervention", dict.fromkeys(row.intervention for row in rows)),
    }


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns that are not left out."""
    return [column for column in COLUMNS if not column.optional or len({column.cell(row).text() for row in rows}) != 1]


def rows_table(rows: Sequence[Row]) -> Table:
    """Return one line per row, those that say what was measured in front of numbers."""
    rows = with_short_names(rows)
    columns = shown_columns(rows)
    labels, numbers = ([column for column in columns if column.numeric is numeric] for numeric in (False, True))
    table_rows = []
    for row in rows:
        texts = [column.cell(row).text() for column in labels]
        cells = [column.cell(row) for column in numbers]
        table_rows.append(TableRow(texts, cells, quiet=row.control_of is not None))
    title = "Results of every cell, task and metric"
    label_headings, headings = ([column.heading for column in kind] for kind in (labels, numbers))
    return Table(title, label_headings, headings, table_rows, notes=list(row_notes(rows)))


# One table per model, task and metric

_PATHS = ("model", "selector", "control_of", "adapter")
"""Fields that may hold a path."""
_VARYING: dict[str, Callable[[Row], str]] = {
    "finetune": lambda row: row.finetune,
    "seed": lambda row: str(row.seed),
    "limit": _limit,
    "override setup": lambda row: row.override_setup or "-",
}
"""Columns that are shown only where a table has more than one value of them; the last, where the same neurons have."""
_NOTHING_HERE = "Nothing here"
"""How a sentence about one table begins."""
_MOST_RATIOS = 5
"""So many ρ are in the sentence about them; the rows have all."""
_MEANING = {"bits_per_byte": "More bits per byte: the model is more surprised by that language."}


def leaderboard_tables(rows: Sequence[Row], *, plain: bool = False) -> list[Table]:
    """Return a table for each model, task and metric, in the order in which they occur; those at their ceiling last.

    Lines are neurons and interventions, columns languages; a cell has the value and, in brackets, the change. What is
    to be said of several tables is below the last of them.

    Args:
        rows: Of a leaderboard.
        plain: Whether plain names are shown in place of what is typed, which the table then has as ``exact``.
    """
    rows = with_short_names(rows)
    failed: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.failed:
            failed[_tried(row)].append(row)
    several = len({row.setup for row in rows}) > 1
    measured = ordered_tables(row for row in rows if not row.failed)
    tables = [_table([*table, *failed[_tried(table[0])]], several, plain) for table in measured]
    for table in measured:
        failed.pop(_tried(table[0]), None)
    return _notes_once([*tables, *(_table(group, several, plain) for group in failed.values())])


def _notes_once(tables: Sequence[Table]) -> list[Table]:
    """Return tables with each sentence below the last that has it; one about "here" stays below its own."""
    later: set[str] = set()
    kept = []
    for table in reversed(tables):
        kept.append(replace(table, notes=[note for note in table.notes if note not in later]))
        later |= {note for note in table.notes if not note.startswith(_NOTHING_HERE)}
    return kept[::-1]


def with_short_names(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows with models, NeuronSets and adapters that are paths called by the end of their path."""
    names = short_names(value for row in rows for value in (getattr(row, field) for field in _PATHS))
    if not names:
        return rows
    return [
        row.model_copy(update={field: names.get(value, value) for field in _PATHS if (value := getattr(row, field))})
        for row in rows
    ]


def _tried(row: Row) -> tuple[Any, ...]:
    # A cell that fails before its model is loaded does not know the model's revision and dtype.
    return (row.model, row.model_files, row.setup, row.task_pattern)


class _Line(NamedTuple):
    """What the cells of one line share."""

    varying: tuple[str, ...]
    selector: str
    control: str
    """The kind of a control; empty for what is none."""
    intervention: str

    @property
    def group(self) -> tuple[Any, ...]:
        """What a selector's line shares with those of its controls."""
        return (self.varying, self.selector)


def _table(rows: Sequence[Row], several_setups: bool, plain: bool) -> Table:
    first = rows[0]
    names = plain_columns(rows) if plain else defaultdict[str, dict[str, str]](dict)
    languages = _columns(rows)
    varying = [name for name, value in _VARYING.items() if len({value(row) for row in rows}) > 1]
    if "override setup" in varying and not _several_overrides(rows):
        varying.remove("override setup")
    lines: dict[_Line, dict[str, list[Row]]] = {}
    for row in rows:
        values = tuple(_VARYING[name](row) for name in varying)
        kind = row.drawn_by if row.control_of is not None else ""
        line = _Line(values, row.control_of or row.selector, kind, row.intervention)
        for column in languages:
            if column == row.pair or (row.is_baseline and column.endswith(f"→{row.pair}")):
                lines.setdefault(line, {}).setdefault(column, []).append(row)
    # In the order in which they occur; a selector's controls after the selector.
    groups = {group: place for place, group in enumerate(dict.fromkeys(line.group for line in lines))}
    table_rows = []
    exact: dict[str, str] = {}
    for line, cells in sorted(lines.items(), key=lambda item: (groups[item[0].group], item[0].control)):
        typed = (_neurons(line, cells, line.selector), line.intervention)
        shown = (
            _neurons(line, cells, names["Neurons"].get(line.selector, line.selector)),
            names["Intervention"].get(line.intervention, line.intervention),
        )
        exact |= {name: choice for name, choice in zip(shown, typed, strict=True) if name != choice}
        numbers = [_cell(cells.get(code, [])) for code in languages]
        table_rows.append(TableRow([*line.varying, *shown], numbers, quiet=bool(line.control)))
    setup = f"setup {first.setup}" if several_setups else None
    model = ", ".join(filter(None, (first.model, first.revision, first.dtype, first.quantization, setup)))
    title = title_typed = f"{first.metric or 'failed'} of {first.task_pattern}: {model}"
    if plain:
        measured = metric_title(first.metric, first.higher_is_better)
        title = f"{task_title(first.task_pattern, first.task_title)}, {measured}: {model}"
        exact[title] = title_typed
    columns = [names["Language"].get(code, code) for code in languages]
    exact |= {name: code for name, code in zip(columns, languages, strict=True) if name != code}
    labels, best = [*varying, "neurons", "intervention"], best_of(rows, columns)
    return Table(title, labels, columns, table_rows, notes=list(_notes(rows)), best=best, exact=exact)


def best_of(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, Best]:
    """Return which number of each column is the best, where the task says which way is better."""
    ways = {row.higher_is_better for row in rows if not row.failed}
    return {} if len(ways) != 1 or None in ways else dict.fromkeys(columns, "highest" if True in ways else "lowest")


def _columns(rows: Sequence[Row]) -> list[str]:
    """Return the languages and pairs that are measured; a baseline is in the columns of all pairs with its language."""
    pairs = dict.fromkeys(row.pair for row in rows)
    targets = {row.language for row in rows if row.source is not None}
    overridden = {row.pair for row in rows if not row.is_baseline}
    return [pair for pair in pairs if pair in overridden or pair not in targets]


def _several_overrides(rows: Sequence[Row]) -> bool:
    """Return whether the same neurons were found or overridden in several ways."""
    setups: dict[tuple[Any, ...], set[str | None]] = defaultdict(set)
    for row in rows:
        setups[row.control_of or row.selector, row.pair].add(row.override_setup)
    return any(len(values) > 1 for values in setups.values())


def _neurons(line: _Line, cells: dict[str, list[Row]], selector: str) -> str:
    """Name a line's neurons, with a name for the selector."""
    if not line.control:
        return selector
    draws = len({row.control_seed for rows in cells.values() for row in rows if not row.failed})
    typed = selector == line.selector
    name = f"{line.control} like {selector}" if typed else f"{control_units(line.control)}, {selector}"
    return name + (f" (mean of {draws})" if draws > 1 else "")


def _cell(rows: Sequence[Row]) -> Cell:
    """Return what one place of a table holds: mostly one row, or the mean of the draws of a control."""
    done = [row for row in rows if row.value is not None]
    if len(done) > 1 and len({row.control_seed for row in done}) == len(done):
        deltas = [row.delta for row in done if row.delta is not None]
        return Cell(fmean(row.value or 0.0 for row in done), change=fmean(deltas) if deltas else None)
    cells = [_cell_of(row) for row in rows]
    if len(cells) > 1:
        return Cell(" / ".join(cell.text() for cell in cells))
    return cells[0] if cells else Cell()


def _cell_of(row: Row) -> Cell:
    if row.failed or row.value is None:
        return Cell("failed" if row.failed else "not a number")
    if row.delta is None:
        return Cell(row.value)
    marks = _mark(row) + _control_mark(row)
    return Cell(row.value, change=row.delta, low=row.ci_low, high=row.ci_high, marks=marks)


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    if tested := compared(rows):
        yield "In brackets the change to the same model without intervention, paired over documents."
        significant = any(row.significant for row in tested)
        yield _verdict(significant, len(tested), f"{SIGNIFICANT} differs from it", "changes")
        yield detectable(tested)
    if controlled := [row for row in rows if row.control_p_holm is not None]:
        draws, units = range_of(row.n_controls for row in controlled), _controls_of(controlled)
        meaning = f"{BEYOND_CONTROLS} differs from {units}, by a test over draws and documents ({draws} drawn)"
        beating = any(row.control_significant for row in controlled)
        yield _verdict(beating, len(controlled), meaning, f"differs from {units}")
    yield from specific(rows)
    yield from (meaning for metric, meaning in _MEANING.items() if metric in {row.metric for row in rows})
    if few := [row.n_controls for row in rows if 0 < row.n_controls < LEAST_DRAWS]:
        yield (
            f"Controls are shown and not tested against: {range_of(few)} drawn, and a test takes {LEAST_DRAWS} or more."
        )
    yield from constant_answers(rows)
    yield from by_chance(rows)
    yield from unspecific_neurons(rows)
    yield from row_notes(rows)
    yield from failed_cells(rows)


def _controls_of(rows: Sequence[Row]) -> str:
    return " or ".join(dict.fromkeys(control_units(row.drawn_by) for row in rows))


def specific(rows: Sequence[Row]) -> Iterator[str]:
    """Yield ρ of the significant changes with draws enough for an interval, and what it means; nothing without any."""
    known = [row for row in rows if row.rho is not None and row.significant and row.n_controls >= LEAST_DRAWS]
    known.sort(key=lambda row: -(row.rho or 0.0))
    if known:
        values = [
            f"{row.pair} under {row.intervention} of {row.selector} {ratio(row.rho, row.rho_low, row.rho_high)}"
            for row in known[:_MOST_RATIOS]
        ]
        more = f", and {len(known) - _MOST_RATIOS} more" if len(known) > _MOST_RATIOS else ""
        yield (
            f"{MEANINGS['rho']}. Of the significant changes, by {_controls_of(known)}, with an interval over "
            f"{range_of(row.n_controls for row in known)} draws: {'; '.join(values)}{more}."
        )


def _verdict(significant: bool, tests: int, meaning: str, nothing: str) -> str:
    corrected = f"{CORRECTED} for {counted(tests, 'test')}"
    return f"{meaning}, {corrected}." if significant else f"{_NOTHING_HERE} {nothing} significantly ({corrected})."
