"""The rows of a leaderboard, and ``leaderboard.json``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lnbench.files import write_json
from lnbench.formats import read_format, validated
from lnbench.shown import Shown
from lnbench.sweeps.records import Record

FORMAT = "lnbench.leaderboard/1"


class Row(Record):
    """One cell, task and metric: what was measured, what it is compared with, and how it can be measured again."""

    model_config = ConfigDict(frozen=False)

    format: Literal["lnbench.record/1"] = Field(default="lnbench.record/1", exclude=True)
    lines: int = Field(default=1, exclude=True)
    samples: str | None = Field(default=None, exclude=True)
    results: str | None = Field(default=None, exclude=True)
    seconds: float | None = Field(default=None, exclude=True)
    cell: str | None = None  # type: ignore[assignment]
    """16 hexadecimal digits of all that the numbers depend on."""
    limit: float | None = None
    """lm-eval's ``--limit``."""

    baseline: float | None = None
    """The mean over the same documents without intervention."""
    delta: float | None = None
    """The mean difference to the baseline, over the same documents."""
    ci_low: float | None = None
    """Lower end of the 95 % interval of ``delta``; None where the documents have no spread to make one from."""
    ci_high: float | None = None
    """Upper end of the 95 % interval of ``delta``."""
    p_value: float | None = None
    """Of the paired test against the baseline."""
    p_holm: float | None = None
    """Corrected for all such tests of the table; None in the row of a control."""
    significant: bool | None = None
    """Whether ``p_holm`` is below 0.05."""
    mde: float | None = None
    """The smallest difference that so many documents would have shown: 80 % power, two-sided 5 %."""
    least_p: float | None = None
    """The smallest ``p_value`` that any change of so many documents could have had."""

    control: float | None = None
    """The mean over the same documents, and over draws, under the control: by default as many random neurons."""
    control_draws: list[float] | None = None
    """The mean over the same documents under each draw."""
    control_min: float | None = None
    """The lowest of the draws' means."""
    control_max: float | None = None
    """The highest of the draws' means."""
    control_delta: float | None = None
    """The mean difference to the average of the draws, over the same documents."""
    control_ci_low: float | None = None
    """Lower end of the 95 % interval of ``control_delta``."""
    control_ci_high: float | None = None
    """Upper end of the 95 % interval of ``control_delta``."""
    control_p_value: float | None = None
    """Of the t-test over draws and documents against the control; None with fewer than three draws."""
    control_p_holm: float | None = None
    """Corrected for all such tests of the table."""
    control_significant: bool | None = None
    """Whether ``control_p_holm`` is below 0.05."""
    control_mde: float | None = None
    """As ``mde``, against the average of the draws."""
    n_controls: int = 0
    """Draws of the control."""
    rho: float | None = None
    """Matched specificity: ``delta`` over the draws' mean change; None without draws, or if they change nothing."""
    rho_low: float | None = None
    """Lower end of its 95 % interval over draws; None where it is not known."""
    rho_high: float | None = None
    """Upper end; None where it is not known, or where the draws' mean change cannot be told from 0."""

    chance: float | None = None
    """Of multiple choice: the accuracy of one choice at random, a mean over the documents."""
    top_choice: str | None = None
    """The choice that was predicted most often: its text, or its number where texts differ by document."""
    top_share: float | None = None
    """The share of the predictions that it takes."""

    note: str | None = None
    """Why there is no comparison, where one would be expected; or that another run found another value."""

    task_version: str | float | None = None
    """Version of the task, as lm-eval has it."""
    task_title: str | None = None
    """What the task's ``metadata`` declares as its ``title``."""
    higher_is_better: bool | None = None
    """Of the metric, as lm-eval has it."""

    @property
    def task_pattern(self) -> str:
        """What tasks of several languages have in common: ``{lang}`` for the language, ``{source}`` for a source."""
        return pattern_of(self.task, self.language, self.source)

    @property
    def pair(self) -> str:
        """The language, or ``source→language``."""
        return self.language if self.source is None else f"{self.source}→{self.language}"

    @property
    def measured_on(self) -> tuple[str | None, ...]:
        """The model, how it was asked, and the task, without which no two rows share a table."""
        loaded = (self.model, self.model_files, self.revision, self.dtype, self.quantization)
        return (*loaded, self.setup, self.task_pattern)


class Leaderboard(list[Row], Shown):
    """The rows of a leaderboard."""

    def __repr__(self) -> str:
        models = ", ".join(dict.fromkeys(row.model for row in self))
        return f"Leaderboard({len(self):,} rows, {len(compared(self)):,} of them compared, {models})"


class _Rows(BaseModel):
    rows: list[Row]


def pattern_of(task: str, language: str, source: str | None = None) -> str:
    """Return a task's name with ``{lang}`` in place of the language, and ``{source}``, where the name has them."""
    parts = task.split("_")
    for placeholder, code in (("{lang}", language), ("{source}", source)):
        if own := [number for number, part in enumerate(parts) if part == code]:
            parts[own[-1]] = placeholder
    return "_".join(parts)


def compared(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that were tested against the same model without intervention, or without adapter."""
    return [row for row in rows if row.p_holm is not None]


def tables_of(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each table, that is of one model, setup, task and metric, in their order."""
    tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        tables[*row.measured_on, row.metric].append(row)
    return list(tables.values())


def document(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the content of ``leaderboard.json``."""
    return {"format": FORMAT, "rows": [row.model_dump() for row in rows]}


def save(rows: Iterable[Row], path: str | Path) -> None:
    """Write ``leaderboard.json``."""
    write_json(path, document(rows))


def load(path: str | Path) -> Leaderboard:
    """Read ``leaderboard.json``.

    Raises:
        LnbenchError: missing, truncated, or of another format.
    """
    content = read_format(path, FORMAT, "leaderboard")
    held = validated(_Rows, content, f"{path} is not a valid leaderboard", "run lnbench leaderboard again")
    return Leaderboard(held.rows)
