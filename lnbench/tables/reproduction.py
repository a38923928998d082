"""``reproduction.json``: the results of a reproduction, with published values beside the measured ones."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from lnbench.formats import FormatFile, StrictModel
from lnbench.tables.table import EMPTY, Best, Cell, Table, TableRow
from lnbench.tables.words import MARKS, SIGNIFICANT

FORMAT = "lnbench.reproduction/1"
FILE = "reproduction.json"
"""Its name in the folder of a reproduction."""
_CONCLUSION = ("conclusion", "preset", "verdict", "evidence")
_BETTER_HIGH = {"acc", "exact_match", "f1", "delta_nats", "delta_perplexity", "delta_bits_per_byte", "jaccard"}
"""Metrics of which the highest number of a column is shown as its best: of changes, the largest harm."""
Verdict = Literal["survives", "does not survive", "undecided"]


class StoredValue(StrictModel):
    """One number of a table, with the number that the paper has in its place."""

    metric: str = Field(description="`acc`, `exact_match`, `f1`, `delta_nats`, `mean`, `p90` …")
    unit: str = Field(description="%, nats per token, activation …")
    measured: float | None = Field(default=None, description="None: the cell failed, or is not measured")
    published: float | None = Field(default=None, description="None: the paper has no number here")
    difference: float | None = Field(default=None, description="measured − published")
    ci_low: float | None = Field(default=None, description="lower end of the measured value's 95 % interval")
    ci_high: float | None = Field(default=None, description="its upper end")
    n: int | None = Field(default=None, description="documents; of a perplexity matrix, tokens")
    significant: bool | None = Field(
        default=None, description="differs from no intervention: p < 0.05, paired over documents, after Holm"
    )
    control: float | None = Field(default=None, description="the mean under as many random neurons")
    note: str | None = Field(default=None, description="why there is no value, or what to know of it")
    digits: int = Field(default=1, description="decimals to show")
    bracketed: StoredValue | None = Field(default=None, description="a second metric, shown in brackets: F1 beside EM")

    @property
    def cell(self) -> Cell:
        """The number in its place of a table."""
        return Cell(
            self.measured,
            f".{self.digits}f",
            low=self.ci_low,
            high=self.ci_high,
            marks=SIGNIFICANT if self.significant and self.measured is not None else "",
            published=self.published,
            bracketed=None if self.bracketed is None else replace(self.bracketed.cell, marks=""),
            note=self.note,
        )

    def numbers(self) -> Iterator[StoredValue]:
        """Yield the value, and the one in its brackets."""
        yield self
        if self.bracketed is not None:
            yield from self.bracketed.numbers()


class StoredRow(StrictModel):
    """One row: what it is of, and its values; None where the paper's table has no such place."""

    labels: list[str] = Field(description="one for each of the table's row_labels")
    cells: list[StoredValue | None] = Field(description="one for each of the table's columns")


class StoredTable(StrictModel):
    """A table in the paper's layout."""

    title: str = Field(description="what the numbers are, and their unit")
    row_labels: list[str] = Field(description="headings of the columns that say what a row is of")
    columns: list[str] = Field(description="headings of the columns of numbers")
    rows: list[StoredRow] = Field(description="from top to bottom")
    notes: list[str] = Field(default=[], description="sentences below it")

    @property
    def values(self) -> list[StoredValue]:
        """The values, row by row; those in brackets behind their own."""
        return [value for row in self.rows for cell in row.cells if cell is not None for value in cell.numbers()]

    @property
    def table(self) -> Table:
        """The table as the renderers show it."""
        rows = [
            TableRow(row.labels, [EMPTY if value is None else value.cell for value in row.cells]) for row in self.rows
        ]
        metrics: dict[str, set[str]] = defaultdict(set)
        for row in self.rows:
            for column, value in zip(self.columns, row.cells, strict=True):
                metrics[column] |= set() if value is None else {value.metric}
        best: dict[str, Best] = {column: "highest" for column, own in metrics.items() if own and own <= _BETTER_HIGH}
        return Table(self.title, self.row_labels, self.columns, rows, MARKS, self.notes, best)


class Conclusion(StrictModel):
    """What the measured numbers say of one of the paper's conclusions."""

    name: str = Field(description="a short name")
    claim: str = Field(description="the conclusion, in one sentence")
    preset: Literal["corrected", "paper"] = Field(description="whose choices were measured")
    verdict: Verdict = Field(description="undecided: so few documents could not tell")
    evidence: str = Field(description="the comparisons behind the verdict, in one sentence")


class Reproduction(FormatFile):
    """``reproduction.json``: one table or figure of the paper, measured again.

    Paths are relative to the folder that holds the file.
    """

    model_config = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "reproduction"
    usual_name: ClassVar[str] = FILE

    format: Literal["lnbench.reproduction/1"] = Field(default="lnbench.reproduction/1", description="name and version")
    name: str = Field(description="`table4`, `figure1`, `paper-vs-corrected` …")
    title: str = Field(description="what it shows")
    preset: Literal["corrected", "paper"] | None = Field(description="None: both are compared")
    scale: Literal["paper", "small"] = Field(description="as much text and training as in the paper, or little")
    models: list[str] = Field(description="their names, without folders")
    tables: list[StoredTable] = Field(default=[], description="in the paper's layout")
    figures: list[str] = Field(default=[], description="files of figures, each in several formats, and their numbers")
    findings: list[str] = Field(default=[], description="what the numbers say, a sentence each")
    conclusions: list[Conclusion] = Field(default=[], description="which of the paper's survive")
    caveats: list[str] = Field(default=[], description="what to keep in mind with these numbers, a sentence each")
    commands: list[str] = Field(default=[], description="what does the same by hand, in order")
    runs: list[str] = Field(default=[], description="folders of the sweeps and perplexity matrices behind it")
    settings: dict[str, str | int | float | bool | None] = Field(
        default={}, description="the scale's settings, with those that were given in their place"
    )
    finished_at: str = Field(description="UTC, ISO 8601")

    @property
    def failures(self) -> list[str]:
        """Why cells that were tried failed, each reason once."""
        notes = [value.note for table in self.tables for value in table.values]
        return list(dict.fromkeys(note for note in notes if note and note.startswith("failed: ")))

    @property
    def shown(self) -> list[Table]:
        """Its tables and, where there are any, the conclusions."""
        verdicts = [TableRow([row.claim, row.preset, row.verdict, row.evidence], []) for row in self.conclusions]
        tables = [table.table for table in self.tables]
        return [*tables, Table("The paper's conclusions", _CONCLUSION, [], verdicts)] if verdicts else tables

    def csv_text(self) -> str:
        """Return every number, one per line."""
        text = io.StringIO()
        names = [name for name in StoredValue.model_fields if name not in ("digits", "bracketed")]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["table", "row", "column", *names])
        for table in self.tables:
            for row in table.rows:
                for column, cell in zip(table.columns, row.cells, strict=True):
                    place = [table.title, " / ".join(row.labels), column]
                    values = [] if cell is None else cell.numbers()
                    writer.writerows([*place, *(getattr(value, name) for name in names)] for value in values)
        return text.getvalue()
