"""Tables for people: Markdown, the terminal, and CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.table import Table as Shown

from lnbench.console import numeric_table
from lnbench.files import write_text
from lnbench.tables.reproduction import Reproduction, Table, TableRow, Value

_Of = Literal["measured", "published", "difference"]
_KINDS: tuple[_Of, ...] = ("measured", "published", "difference")
_MARK, _MEANING = "*", "differs from no intervention: p < 0.05 after Holm's correction"
_CSV = (
    *("metric", "unit", "measured", "published", "difference", "ci_low", "ci_high", "n", "significant", "control"),
    "note",
)


def write_tables(found: Reproduction, folder: Path) -> None:
    """Write ``table.md`` and ``table.csv``."""
    write_text(folder / "table.md", markdown(found))
    write_text(folder / "table.csv", table_csv(found))


def shown(table: Table) -> Shown:
    """A table for the terminal."""
    headings = [*table.row_labels, *(["value"] if table.has_published else []), *table.columns]
    rich = numeric_table(table.title, *headings, caption=f"{_MARK} {_MEANING}" if _has_marks(table) else None)
    for number in range(1, len(headings) - len(table.columns)):
        rich.columns[number].justify = "left"
    for row in table.rows:
        for line in _lines(table, row):
            rich.add_row(*line)
    return rich


def verdicts(found: Reproduction) -> Shown | None:
    """What became of the paper's conclusions, for the terminal; None where nothing bears on any."""
    if not found.conclusions:
        return None
    rich = numeric_table("The paper's conclusions", "", "preset", "verdict", "evidence")
    for column in rich.columns:
        column.justify = "left"
    for one in found.conclusions:
        rich.add_row(one.claim, one.preset, one.verdict, one.evidence)
    return rich


def markdown(found: Reproduction) -> str:
    """All that a reproduction has to say, as Markdown."""
    lines = [f"# {found.name}: {found.title}", ""]
    lines += [f"Models: {', '.join(found.models)}. Scale: {found.scale}. Preset: {found.preset or 'both'}.", ""]
    for table in found.tables:
        headings = [*table.row_labels, *(["value"] if table.has_published else []), *table.columns]
        words = len(headings) - len(table.columns)
        lines += [f"## {table.title}", "", _row(headings), _row(["---"] * words + ["--:"] * len(table.columns))]
        lines += [_row(line) for row in table.rows for line in _lines(table, row)]
        lines += [""]
        if _has_marks(table):
            lines += [f"{_MARK} {_MEANING}", ""]
    if found.conclusions:
        lines += ["## The paper's conclusions", "", _row(["conclusion", "preset", "verdict", "evidence"])]
        lines += [_row(["---"] * 4)]
        lines += [_row([one.claim, one.preset, one.verdict, one.evidence]) for one in found.conclusions]
        lines += [""]
    for heading, sentences in (("Findings", found.findings), ("Caveats", found.caveats)):
        if sentences:
            lines += [f"## {heading}", "", *(f"- {sentence}" for sentence in sentences), ""]
    for figure in found.figures:
        if figure.endswith(".png"):
            lines += [f"![]({figure})", ""]
    lines += ["## Commands", "", "```sh", *found.commands, "```", ""]
    return "\n".join(lines)


def table_csv(found: Reproduction) -> str:
    """Every number, one a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "column", *_CSV])
    for table in found.tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                place = [table.title, " / ".join(row.labels), column]
                writer.writerows([*place, *(getattr(value, name) for name in _CSV)] for value in _values(cell))
    return text.getvalue()


def _values(cell: Value | None) -> Iterator[Value]:
    while cell is not None:
        yield cell
        cell = cell.bracketed


def _lines(table: Table, row: TableRow) -> Iterator[list[str]]:
    """A row in text; with published values, one line for each of measured, published and difference."""
    if not table.has_published:
        yield [*row.labels, *(_text(cell, "measured") for cell in row.cells)]
        return
    for number, of in enumerate(_KINDS):
        labels = row.labels if number == 0 else [""] * len(row.labels)
        yield [*labels, of, *(_text(cell, of) for cell in row.cells)]


def _text(cell: Value | None, of: _Of) -> str:
    if cell is None:
        return ""
    return cell.text(of) + (_MARK if of == "measured" and cell.significant else "")


def _has_marks(table: Table) -> bool:
    return any(cell is not None and cell.significant for row in table.rows for cell in row.cells)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
