"""Reproductions: the published value beside each measured one, in the paper's layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lnbench.report.text import counted, listed, number
from lnbench.report.view import Finding, Picture, Table

if TYPE_CHECKING:
    from lnbench.tables.reproduction import Reproduction, StoredTable, StoredValue


@dataclass(frozen=True)
class Published:
    """One reproduction."""

    title: str
    about: str
    conclusions: Table | None
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    caveats: Sequence[str]
    commands: Sequence[str]


def published(found: Reproduction, pictures: Sequence[Picture]) -> Published:
    """A reproduction as a page shows it."""
    models = ", ".join(Path(model).name for model in found.models)
    preset = f"preset {found.preset}" if found.preset else "both presets"
    return Published(
        _title(found),
        f"{models}; {preset}; scale {found.scale}; finished {found.finished_at}.",
        _conclusions(found),
        [_table(table) for table in found.tables],
        pictures,
        found.caveats,
        found.commands,
    )


def _conclusions(found: Reproduction) -> Table | None:
    if not found.conclusions:
        return None
    rows = [[one.claim, one.preset, one.verdict, one.evidence] for one in found.conclusions]
    return Table("Which of the paper's conclusions survive", ["Conclusion", "Preset", "Verdict", "Evidence"], rows, 4)


def _table(table: StoredTable) -> Table:
    """Measured, published and the difference side by side, in one cell of the paper's table each."""
    values = [value for row in table.rows for value in row.cells if value is not None]
    notes = []
    if table.table.has_published:
        notes.append("Each cell: measured | published in the paper | the difference, measured − published.")
    if any(value.significant for value in values):
        notes.append("* differs from no intervention: p < 0.05 after Holm's correction.")
    if missing := [value for value in values if value.measured is None]:
        notes.append(f"{counted(len(missing), 'cell')} of {len(values)} not measured.")
    notes += [f"{note}." for note in dict.fromkeys(value.note for value in values if value.note)]
    rows = [[*row.labels, *(_value(value, table.table.has_published) for value in row.cells)] for row in table.rows]
    return Table(table.title, [*table.row_labels, *table.columns], rows, len(table.row_labels), notes)


def _value(value: StoredValue | None, has_published: bool) -> str:
    if value is None:
        return ""
    cell = value.cell
    measured = cell.text("measured")
    if not has_published:
        return measured.replace("-", "−")
    return " | ".join((measured, cell.text("published"), cell.text("difference"))).replace("-", "−")


def finding(found: Reproduction) -> Finding:
    """What a reproduction says of itself, and how near its values are to the published ones."""
    values = [value for table in found.tables for row in table.rows for value in row.cells if value is not None]
    by_unit: dict[str, list[float]] = defaultdict(list)
    for value in values:
        if value.difference is not None:
            by_unit[value.unit].append(abs(value.difference))
    distances = [f"{number(sum(some) / len(some), 1)} ({unit})" for unit, some in by_unit.items()]
    beside = counted(sum(map(len, by_unit.values())), "value stands", "values stand")
    verdict = f"{beside} beside a published one, at a mean distance of {listed(distances)}." if by_unit else ""
    return Finding(_title(found), verdict, found.findings)


def _title(found: Reproduction) -> str:
    return f"{found.name}: {found.title}"
