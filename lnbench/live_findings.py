"""What the demo shows while it runs: a line for each finding as it comes, a table that fills in, and the time left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from lnbench.console import duration
from lnbench.host import changes_nothing
from lnbench.leaderboard.rows import pattern_of
from lnbench.neurons import NeuronSet
from lnbench.sweeps.cells import Cell
from lnbench.sweeps.records import NOT_SPECIFIC, Record
from lnbench.tables.plain_names import language_name, metric_of, plain_action
from lnbench.tables.render import terminal
from lnbench.tables.table import Cell as TableCell
from lnbench.tables.table import Table, TableRow
from lnbench.tables.words import counted, signed

TELLING_METRICS = ("bits_per_byte", "f1", "acc")
"""The first that a task has is what findings are about; else its first metric."""


@dataclass
class LiveFindings:
    """A view of a run whose cells end one after another; to be entered, and called with each cell that has ended.

    Attributes:
        selector: The selector that findings are about, as in records.
        intervention: The intervention that they are about.
        neurons: What the selector found.
        languages: In the order of the table's columns.
        generation: The task of generated answers, with ``{lang}``.
        console: Where to talk.
    """

    selector: str
    intervention: str
    neurons: NeuronSet
    languages: Sequence[str]
    generation: str
    console: Console
    _lines: dict[tuple[str, str, str], dict[str, Record]] = field(default_factory=dict)
    """Whose neurons, intervention, task → language → the record shown."""
    _seconds: dict[str, list[float]] = field(default_factory=dict)
    """Task → how long its cells took."""
    _said: set[str] = field(default_factory=set)
    _left: Sequence[Cell] = ()
    first_at: float | None = None
    """When the first finding was shown, by :func:`time.monotonic`."""
    _live: Live | None = None
    _stream: TextIO | None = None

    def __enter__(self) -> LiveFindings:
        if self.console.is_terminal:
            # While lm-eval runs, stderr leads to its log; the table must not.
            self._stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace")
            console = Console(file=self._stream, force_terminal=True)
            self._live = Live(get_renderable=self._view, console=console, transient=True, refresh_per_second=2)
            self._live.start()
            self.console = console
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._stream is not None:
            self._stream.close()

    def __call__(self, cell: Cell, records: Sequence[Record], left: Sequence[Cell]) -> None:
        """Take up a cell that has ended.

        Args:
            cell: The cell.
            records: Its records.
            left: The cells that are still to run.
        """
        self._left = left
        record = _telling(records)
        if record.seconds is not None:
            self._seconds.setdefault(_pattern(cell), []).append(record.seconds)
        whose = cell.selector if cell.control_of is None else f"random like {cell.control_of}"
        for language in cell.languages:
            self._lines.setdefault((whose, cell.intervention, _pattern(cell)), {})[language] = record
            for sentence in (self._finding(language), self._generated(language), self._finished(language)):
                if sentence and sentence not in self._said:
                    self._said.add(sentence)
                    self.first_at = self.first_at or time.monotonic()
                    self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def time_left(self) -> float | None:
        """Return how many seconds the cells that are left will take, by those that have ended; None before any has."""
        known = [seconds for times in self._seconds.values() for seconds in times]
        if not known:
            return None
        return sum(fmean(self._seconds.get(_pattern(cell), known)) for cell in self._left)

    def _records(self, language: str, generated: bool) -> tuple[Record | None, Record | None, Record | None]:
        """Return the records of the unchanged model, of the neurons and of their control in one language."""
        found: dict[str, Record] = {
            whose: records[language]
            for (whose, intervention, task), records in self._lines.items()
            if language in records
            and (task == self.generation) is generated
            and (whose == NOT_SPECIFIC or intervention == self.intervention)
        }
        whose = (NOT_SPECIFIC, self.selector, f"random like {self.selector}")
        plain, changed, control = (found.get(name) for name in whose)
        return plain, changed, control

    def _finding(self, language: str) -> str | None:
        plain, changed, control = self._records(language, generated=False)
        name, count = language_name(language), self.neurons.count(language)
        if changed is not None and changed.failed:
            return f"{name}: nothing to show, as its cell failed: {changed.error}"
        if plain is None or changed is None or control is None:
            return None
        metric = metric_of(changed.metric)
        unit = f" {metric.unit}" if metric.unit else f" in {metric.title}"
        control_change = "failed" if control.failed else signed(_change(control, plain), 2)
        done = plain_action(self.intervention, f"{name}'s {counted(count, 'neuron')}")
        return (
            f"{done[:1].upper()}{done[1:]}: {signed(_change(changed, plain), 2)}{unit} in {name}, "
            f"{counted(count, 'random neuron')}: {control_change}"
        )

    def _generated(self, language: str) -> str | None:
        plain, changed, control = self._records(language, generated=True)
        if plain is None or changed is None or control is None or changed.failed:
            return None
        name = language_name(language)
        shares = [_of(record) for record in (changed, plain, control)]
        return (
            f"  and the model writes {name} after {shares[0]} {name} beginnings "
            f"(unchanged: {shares[1]}; random neurons: {shares[2]})"
        )

    def _finished(self, language: str) -> str | None:
        if self._live is not None or not self._left or any(language in cell.languages for cell in self._left):
            return None
        left = self.time_left()
        about = "" if left is None else f", about {duration(left)} left"
        return f"{language_name(language)} is measured; {counted(len(self._left), 'cell')}{about}"

    def _view(self) -> RenderableType:
        left = self.time_left()
        about = f"{counted(len(self._left), 'cell')} to go" if self._lines else "the first cell is running"
        status = Text(about if left is None else f"{about}, about {duration(left)} left", style="bold")
        return Group(terminal(self.table()), status)

    def table(self) -> Table:
        """Return the table of the metric that findings are about, as far as it is filled."""
        lines = {line: records for line, records in self._lines.items() if line[2] != self.generation}
        first = next((record for records in lines.values() for record in records.values() if record.metric), None)
        rows = [
            TableRow(
                [whose, intervention],
                [_shown(records.get(language)) for language in self.languages],
                quiet=whose.startswith("random like "),
            )
            for (whose, intervention, _), records in lines.items()
        ]
        title = metric_of(first.metric).unit or metric_of(first.metric).title if first else "waiting for the first cell"
        return Table(title, ["neurons", "intervention"], list(self.languages), rows)


def _pattern(cell: Cell) -> str:
    return pattern_of(cell.task, cell.languages[0], cell.source)


def _telling(records: Sequence[Record]) -> Record:
    by_metric = {record.metric: record for record in records}
    return next((by_metric[name] for name in TELLING_METRICS if name in by_metric), records[0])


def _change(record: Record, plain: Record) -> float | None:
    return None if record.value is None or plain.value is None else record.value - plain.value


def _of(record: Record) -> str:
    if record.value is None or not record.n:
        return "failed"
    return f"{round(record.value * record.n)} of {record.n}"


def _shown(record: Record | None) -> TableCell:
    if record is None:
        return TableCell("…")
    return TableCell("failed") if record.failed or record.value is None else TableCell(record.value, ".2f")


def is_telling(cell: Cell, selector: str, intervention: str) -> bool:
    """Return whether a cell is part of a finding: the unchanged model, or the neurons or their control under it."""
    if changes_nothing(cell.intervention):
        return True
    return cell.intervention == intervention and selector in (cell.selector, cell.control_of)
