"""A table as data: cells with values, intervals, marks and published values. :mod:`lnbench.tables.render` shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from lnbench.model.architectures import in_units
from lnbench.tables.words import NOTHING

Of = Literal["measured", "published", "difference"]
Tone = Literal["", "better", "worse"]
Best = Literal["highest", "lowest"]
KINDS: tuple[Of, ...] = ("measured", "published", "difference")
"""The numbers of a cell that has a published value beside the measured one."""


class Part(NamedTuple):
    """What is written in one place: the text, the marks behind it, and whether it is the best of its column."""

    text: str
    marks: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Cell:
    """One place in a table.

    Attributes:
        value: The number, or text; None where there is nothing. Sorted by.
        format: How numbers are written, as in ``format(value, …)``.
        shown: What is written in place of ``value``, if it is not the number alone: ``< 0.001``.
        change: Change against the baseline, shown in brackets behind the value.
        low: Lower end of the 95 % interval.
        high: Its upper end.
        with_interval: Whether the interval is shown behind the number, as – where it is not known.
        marks: Signs, each explained in the table's ``marks``.
        published: The number that the paper has in this place.
        bracketed: A second number, shown in brackets: F1 beside exact match.
        note: Why there is no value, or what to know of it.
        emphasis: Whether it is highlighted, as a diagonal is.
        tone: ``better`` or ``worse``, where the direction of a change is known.
    """

    value: float | str | None = None
    format: str = ".3f"
    shown: str | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    with_interval: bool = False
    marks: str = ""
    published: float | None = None
    bracketed: Cell | None = None
    note: str | None = None
    emphasis: bool = False
    tone: Tone = ""

    @property
    def difference(self) -> float | None:
        """Measured − published."""
        if self.published is None or not isinstance(self.value, int | float):
            return None
        return self.value - self.published

    def text(self, of: Of = "measured") -> str:
        """Write one of its numbers with what belongs to it."""
        part = self.part(of)
        return part.text + part.marks

    def part(self, of: Of = "measured") -> Part:
        """Return what :meth:`text` writes, the marks apart."""
        return Part(self._body(of), self.marks if of == "measured" and self._body(of) != NOTHING else "")

    def _body(self, of: Of) -> str:
        if self.shown is not None and of == "measured":
            return self.shown
        number = self.value if of == "measured" else self.published if of == "published" else self.difference
        if number is None:
            return NOTHING
        if isinstance(number, str):
            return number
        plain = self.format.lstrip("+")
        parts = [format(number, f"+{plain}" if of == "difference" else self.format)]
        if self.bracketed is not None:
            parts.append(f" ({self.bracketed.text(of)})")
        if of == "measured":
            if self.change is not None:
                parts.append(f" ({self.change:+{plain}})")
            if self.with_interval:
                known = self.low is not None and self.high is not None
                parts.append(f" [{self.low:+{plain}}, {self.high:+{plain}}]" if known else f" [{NOTHING}]")
        return "".join(parts)

    def numbers(self) -> Iterator[Cell]:
        """Yield the cell, and those in its brackets."""
        cell: Cell | None = self
        while cell is not None:
            yield cell
            cell = cell.bracketed


EMPTY = Cell("")
"""A place that the table does not have."""


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        labels: What the row is of, one for each of the table's ``labels``.
        cells: One for each of the table's ``columns``.
        quiet: Whether it is dimmed, as what others are compared with is.
        section: Whether a line is drawn below it.
        summary: Whether it sums up others, and is not compared with them.
    """

    labels: Sequence[str]
    cells: Sequence[Cell]
    quiet: bool = False
    section: bool = False
    summary: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What the numbers are, and their unit.
        labels: Headings of the columns of text that say what a row is of.
        columns: Headings of the columns of numbers.
        rows: From top to bottom.
        marks: Sign → what it says, for the signs that occur.
        notes: Sentences below it.
        best: Heading of a column → which of its numbers is the best, where one is.
        exact: Plain name in it → what users type, which a page shows on hover.
    """

    title: str
    labels: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[TableRow]
    marks: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    best: Mapping[str, Best] = field(default_factory=dict)
    exact: Mapping[str, str] = field(default_factory=dict)

    def in_units(self, site: str) -> Table:
        """Return the table of neurons as one of a site's units, in its words."""
        title, *texts = (in_units(text, site) for text in (self.title, *self.labels, *self.columns, *self.notes))
        columns = len(self.labels) + len(self.columns)
        return replace(
            self,
            title=title,
            labels=texts[: len(self.labels)],
            columns=texts[len(self.labels) : columns],
            marks={sign: in_units(text, site) for sign, text in self.marks.items()},
            notes=texts[columns:],
        )

    @property
    def has_published(self) -> bool:
        """Whether the paper has any of these numbers."""
        return any(number.published is not None for row in self.rows for cell in row.cells for number in cell.numbers())

    @property
    def headings(self) -> list[str]:
        """The headings of all columns as they are shown, with one for ``measured``, ``published``, ``difference``."""
        return [*self.labels, *(["value"] if self.has_published else []), *self.columns]

    @property
    def text_columns(self) -> int:
        """How many of them are text, before the columns of numbers."""
        return len(self.headings) - len(self.columns)

    def lines(self) -> Iterator[tuple[TableRow, list[str]]]:
        """Yield each line in text; with published values, a row has one line for each of :data:`KINDS`."""
        for row, parts in self.parts():
            yield row, [part.text + part.marks for part in parts]

    def parts(self) -> Iterator[tuple[TableRow, list[Part]]]:
        """Yield what :meth:`lines` yields, with the marks apart and the best of each column known."""
        best = self._best_texts()
        for row in self.rows:
            measured = [
                part._replace(is_best=_is_compared(row, cell) and best.get(place) == _written(cell))
                for place, cell in enumerate(row.cells)
                for part in [cell.part()]
            ]
            if not self.has_published:
                yield row, [*map(Part, row.labels), *measured]
                continue
            for number, of in enumerate(KINDS):
                labels = row.labels if number == 0 else [""] * len(row.labels)
                own = measured if of == "measured" else [cell.part(of) for cell in row.cells]
                parts = [Part("") if cell is EMPTY else part for cell, part in zip(row.cells, own, strict=True)]
                yield row, [*map(Part, labels), Part(of), *parts]

    def _best_texts(self) -> dict[int, str]:
        """Return how the best number of each column is written, where it has one: what is written alike is as good."""
        best = {}
        for place, column in enumerate(self.columns):
            cells = [row.cells[place] for row in self.rows if _is_compared(row, row.cells[place])]
            values = {_written(cell): float(cell.value or 0) for cell in cells}
            if column in self.best and len(values) > 1:
                choose = max if self.best[column] == "highest" else min
                best[place] = choose(values, key=values.__getitem__)
        return best

    @property
    def best_note(self) -> str:
        """What bold numbers are, for formats that have them; empty without any."""
        if not self._best_texts():
            return ""
        kinds = {self.best[self.columns[place]] for place in self._best_texts()}
        return f"Bold: the {kinds.pop()} of its column." if len(kinds) == 1 else "Bold: the best of its column."

    def legend(self) -> list[str]:
        """Return the sentences below the table: what its marks say, then its notes."""
        used = {mark for row in self.rows for cell in row.cells for mark in cell.marks}
        return [*(f"{mark} {meaning}." for mark, meaning in self.marks.items() if mark in used), *self.notes]


def _is_compared(row: TableRow, cell: Cell) -> bool:
    """Return whether a cell is among those of which one is the best."""
    return not (row.quiet or row.summary) and isinstance(cell.value, int | float) and math.isfinite(cell.value)


def _written(cell: Cell) -> str:
    """Return a number alone, as it is rounded."""
    return format(cell.value, cell.format) if isinstance(cell.value, int | float) else ""
