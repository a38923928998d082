"""The rows of a leaderboard, and ``leaderboard.json``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lnbench.errors import LnbenchError
from lnbench.files import write_json
from lnbench.formats import read_format

FORMAT = "lnbench.leaderboard/1"


class Row(BaseModel):
    """One cell, task and metric: what was measured, what it is compared with, and how it can be measured again."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    model: str
    """As it was named."""
    selector: str
    """Selector in full, or NeuronSet file; ``-`` without an intervention."""
    finetune: str
    """Name of the adapter or fine-tuning; ``none`` without one."""
    intervention: str
    """What was written to the neurons."""
    language: str
    """Whose neurons are overridden; the language of the task."""
    task: str
    """lm-eval's name."""
    metric: str | None
    """lm-eval's name; None in the one row of a cell that failed."""
    value: float | None
    """lm-eval's value."""
    stderr: float | None = None
    """lm-eval's standard error."""
    n: int | None = None
    """Documents."""
    status: Literal["done", "failed"] = "done"
    """Whether the cell was measured."""
    error: str | None = None
    """Why it failed."""

    baseline: float | None = None
    """The mean over the same documents without intervention."""
    delta: float | None = None
    """The mean difference to the baseline, over the same documents."""
    ci_low: float | None = None
    """Lower end of the 95 % interval of ``delta``."""
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

    control: float | None = None
    """The mean over the same documents, and over draws, under as many random neurons."""
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
    """Of the paired test against the average of the draws."""
    control_p_holm: float | None = None
    """Corrected for all such tests of the table."""
    control_significant: bool | None = None
    """Whether ``control_p_holm`` is below 0.05 and ``value`` lies beyond the mean of every draw."""
    control_mde: float | None = None
    """As ``mde``, against the average of the draws."""
    n_controls: int = 0
    """Draws of random neurons."""

    note: str | None = None
    """Why there is no comparison, where one would be expected; or that another run found another value."""

    command: str
    """An ``lm_eval`` command that gives the same numbers by hand."""
    cell: str | None = None
    """16 hexadecimal digits of all that the numbers depend on."""
    revision: str | None = None
    """Commit of the model, where it has one."""
    dtype: str | None = None
    """Of the weights as they were loaded."""
    quantization: str | None = None
    """How the weights were quantised, if they were."""
    adapter: str | None = None
    """Folder of the PEFT adapter."""
    control_of: str | None = None
    """In the row of a control: the ``selector`` that it is a control of."""
    control_seed: int | None = None
    """In the row of a control: the seed of the draw."""
    seed: int = 0
    """lm-eval's ``--seed``."""
    setup: str | None = None
    """Fingerprint of how the model was loaded and asked; only cells with the same are compared."""
    override_setup: str | None = None
    """Fingerprint of what an override and its controls share."""
    limit: float | None = None
    """lm-eval's ``--limit``."""
    batch_size: int | str | None = None
    """lm-eval's ``--batch_size``."""
    neuron_set: str | None = None
    """Fingerprint of the NeuronSet."""
    statistics: str | None = None
    """Fingerprint of the language's Statistics."""
    weights: str | None = None
    """Fingerprint of the weights."""
    task_version: str | float | None = None
    """Version of the task, as lm-eval has it."""
    higher_is_better: bool | None = None
    """Of the metric, as lm-eval has it."""
    lnbench_version: str | None = None
    """Version of lnbench."""
    lm_eval_version: str | None = None
    """Version of lm-eval."""
    transformers_version: str | None = None
    """Version of transformers."""
    torch_version: str | None = None
    """Version of PyTorch."""
    datasets_version: str | None = None
    """Version of datasets."""
    finished_at: str | None = None
    """When the cell ended: UTC, ISO 8601."""

    @property
    def failed(self) -> bool:
        """Whether the cell gave no numbers."""
        return self.status == "failed"

    @property
    def task_pattern(self) -> str:
        """The task with ``{lang}`` for its own language: what the tasks of several languages have in common."""
        return pattern_of(self.task, self.language)

    @property
    def measured_on(self) -> tuple[str | None, ...]:
        """The model, how it was asked, and the task, without which no two rows share a table."""
        return (self.model, self.revision, self.dtype, self.quantization, self.setup, self.task_pattern)


def pattern_of(task: str, language: str) -> str:
    """A task's name with ``{lang}`` in place of the language, where the name has it."""
    parts = task.split("_")
    own = [number for number, part in enumerate(parts) if part == language]
    return "_".join([*parts[: own[-1]], "{lang}", *parts[own[-1] + 1 :]]) if own else task


def compared(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that were tested against the same model without intervention, or without adapter."""
    return [row for row in rows if row.p_holm is not None]


def tables_of(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each table, that is of one model, setup, task and metric, in their order."""
    tables: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        tables[*row.measured_on, row.metric].append(row)
    return list(tables.values())


def save(rows: Iterable[Row], path: str | Path) -> None:
    """Write ``leaderboard.json``."""
    write_json(path, {"format": FORMAT, "rows": [row.model_dump() for row in rows]})


def load(path: str | Path) -> list[Row]:
    """Read ``leaderboard.json``.

    Raises:
        LnbenchError: missing, truncated, or of another format.
    """
    found = read_format(path, FORMAT, "leaderboard")
    try:
        return [Row.model_validate(row) for row in found["rows"]]
    except (KeyError, TypeError, ValidationError) as error:
        raise LnbenchError(f"{path} has rows that are not a leaderboard's; write it anew ({error})") from error
