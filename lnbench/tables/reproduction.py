"""What a reproduction has come to: tables with published values beside the measured ones, findings, and caveats."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lnbench.formats import FormatFile

FORMAT = "lnbench.reproduction/1"
FILE = "reproduction.json"
"""Its name in the folder of a reproduction."""
Verdict = Literal["survives", "does not survive", "undecided"]


class Value(BaseModel):
    """One number of a table, with the number that the paper has in its place."""

    model_config = ConfigDict(extra="forbid")

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
    bracketed: Value | None = Field(default=None, description="a second metric, shown in brackets: F1 beside EM")

    def text(self, of: Literal["measured", "published", "difference"]) -> str:
        """One of its numbers as the tables show it, ``41.2`` or ``38.0 (64.1)``; ``–`` where there is none."""
        number = getattr(self, of)
        if number is None:
            return "–"
        sign = "+" if of == "difference" else ""
        shown = f"{number:{sign}.{self.digits}f}"
        return shown if self.bracketed is None else f"{shown} ({self.bracketed.text(of)})"


class TableRow(BaseModel):
    """One row: what it is of, and its values; None where the paper's table has no such place."""

    model_config = ConfigDict(extra="forbid")

    labels: list[str] = Field(description="one for each of the table's row_labels")
    cells: list[Value | None] = Field(description="one for each of the table's columns")


class Table(BaseModel):
    """A table in the paper's layout."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(description="what the numbers are, and their unit")
    row_labels: list[str] = Field(description="headings of the columns that say what a row is of")
    columns: list[str] = Field(description="headings of the columns of numbers")
    rows: list[TableRow] = Field(description="from top to bottom")

    @property
    def has_published(self) -> bool:
        """Whether the paper has any of these numbers."""
        return any(cell is not None and cell.published is not None for row in self.rows for cell in row.cells)


class Conclusion(BaseModel):
    """What the measured numbers say of one of the paper's conclusions."""

    model_config = ConfigDict(extra="forbid")

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
    models: list[str] = Field(description="as they were named")
    tables: list[Table] = Field(default=[], description="in the paper's layout")
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
        """What cells that were tried failed of, each once."""
        notes = [cell.note for table in self.tables for row in table.rows for cell in row.cells if cell is not None]
        return list(dict.fromkeys(note for note in notes if note and note.startswith("failed: ")))
