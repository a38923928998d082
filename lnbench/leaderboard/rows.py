"""The rows of a leaderboard, and ``leaderboard.json``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lnbench.errors import LnbenchError
from lnbench.files import read_json, write_json

FORMAT = "lnbench.leaderboard/1"


class Row(BaseModel):
    """One cell, task and metric: what was measured, what it is compared with, and how it can be measured again."""

    model_config = ConfigDict(extra="ignore")

    model: str
    selector: str
    finetune: str
    intervention: str
    language: str
    task: str
    metric: str | None
    """None in the one row of a cell that failed."""
    value: float | None
    stderr: float | None = None
    n: int | None = None
    """Documents."""
    status: Literal["done", "failed"] = "done"
    error: str | None = None

    baseline: float | None = None
    """The mean over the same documents without intervention."""
    delta: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    """Corrected for all such tests of the table; None in the row of a control."""
    significant: bool | None = None
    mde: float | None = None
    """The smallest difference that so many documents would have shown: 80 % power, two-sided 5 %."""

    control: float | None = None
    """The mean over the same documents, and over draws, under as many random neurons."""
    control_min: float | None = None
    control_max: float | None = None
    """Of the draws' means."""
    control_delta: float | None = None
    control_ci_low: float | None = None
    control_ci_high: float | None = None
    control_p_value: float | None = None
    control_p_holm: float | None = None
    control_significant: bool | None = None
    """Also beyond the mean of every draw."""
    control_mde: float | None = None
    n_controls: int = 0
    """Draws of random neurons."""

    note: str | None = None
    """Why there is no comparison, where one would be expected; or that another run found another value."""

    command: str
    cell: str | None = None
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    adapter: str | None = None
    control_of: str | None = None
    """In the row of a control: whose."""
    control_seed: int | None = None
    seed: int = 0
    setup: str | None = None
    """Fingerprint of how the model was loaded and asked."""
    override_setup: str | None = None
    """Fingerprint of what an override and its controls share."""
    limit: float | None = None
    batch_size: int | str | None = None
    neuron_set: str | None = None
    statistics: str | None = None
    weights: str | None = None
    task_version: str | float | None = None
    higher_is_better: bool | None = None
    lnbench_version: str | None = None
    lm_eval_version: str | None = None
    transformers_version: str | None = None
    torch_version: str | None = None
    datasets_version: str | None = None
    finished_at: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the cell gave no numbers."""
        return self.status == "failed"

    @property
    def task_pattern(self) -> str:
        """The task with ``{lang}`` for its own language: what the tasks of several languages have in common."""
        parts = self.task.split("_")
        own = [number for number, part in enumerate(parts) if part == self.language]
        return "_".join([*parts[: own[-1]], "{lang}", *parts[own[-1] + 1 :]]) if own else self.task

    @property
    def measured_on(self) -> tuple[str | None, ...]:
        """The model, how it was asked, and the task, without which no two rows share a table."""
        return (self.model, self.revision, self.dtype, self.quantization, self.setup, self.task_pattern)


def save(rows: Iterable[Row], path: str | Path) -> None:
    """Write ``leaderboard.json``."""
    write_json(path, {"format": FORMAT, "rows": [row.model_dump() for row in rows]})


def load(path: str | Path) -> list[Row]:
    """Read ``leaderboard.json``.

    Raises:
        LnbenchError: missing, truncated, or of another format.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise LnbenchError(f"{path} is not a leaderboard of format {FORMAT}")
    try:
        return [Row.model_validate(row) for row in found["rows"]]
    except (KeyError, TypeError, ValidationError) as error:
        raise LnbenchError(f"{path} has rows that are not a leaderboard's; write it anew ({error})") from error
