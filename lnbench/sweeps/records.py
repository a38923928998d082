"""``records.jsonl``: one flat line per cell, task and metric, appended as each cell ends, and whole after any kill."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lnbench.errors import LnbenchError
from lnbench.files import accept_unsynced, atomic_path, fingerprint
from lnbench.formats import first_error
from lnbench.host import changes_nothing
from lnbench.model.names import name_in_file, without_folders
from lnbench.shown import Shown

log = logging.getLogger(__name__)
FILE = "records.jsonl"
BASELINE = "none"
"""The ``intervention`` of a cell that overrides nothing, and the ``finetune`` of one without adapter."""
RANDOM = "random"
"""The ``control_kind`` of records of before there was a choice."""
NOT_SPECIFIC = "-"
"""The ``selector`` of a cell without neurons."""


class Record(BaseModel):
    """What one cell measured on one task by one metric; a cell that failed has one such line without a metric."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    format: Literal["lnbench.record/1"] = "lnbench.record/1"
    """Name and version of this format."""
    cell: str
    """16 hexadecimal digits of all that the numbers depend on."""
    lines: int = 1
    """How many lines the cell has, so that a cell that was cut off between two of them is noticed."""
    status: Literal["done", "failed"] = "done"
    """Whether the cell was measured."""
    error: str | None = None
    """Why it failed."""
    model: str
    """Its name: a packaged one, one of the hub, or the last part of a local folder's path."""
    model_files: str | None = None
    """Fingerprint of the files in a local folder, which tells apart models with the same name."""
    revision: str | None = None
    """Commit of the model, where it has one."""
    dtype: str | None = None
    """Of the weights as they were loaded."""
    quantization: str | None = None
    """How the weights were quantised, if they were."""
    adapter: str | None = None
    """Folder of the PEFT adapter."""
    finetune: str = BASELINE
    """Name of the adapter or fine-tuning in the spec."""
    selector: str = NOT_SPECIFIC
    """Selector in full, or NeuronSet file; ``-`` where nothing is overridden."""
    control_of: str | None = None
    """For a control: the ``selector`` that it is a control of."""
    control_seed: int | None = None
    """For a control: the seed of the draw."""
    control_kind: str | None = None
    """For a control: what draws it, ``random``, ``random_active`` …; ``random`` where an older record does not say."""
    seed: int = 0
    """lm-eval's ``--seed``."""
    setup: str | None = None
    """Fingerprint of how the model was loaded and asked: all options but ``limit``, ``batch_size``, ``device``."""
    override_setup: str | None = None
    """Fingerprint of what an override and its controls share: neurons, languages compared, text, site, positions."""
    intervention: str
    """As it was written: ``p10``, ``constant:value=-1``."""
    site: str | None = None
    """Where the values were written, ``paper``: read ``pre``, written ``post``; None where nothing is overridden."""
    source: str | None = None
    """The language that an answer would be in without the intervention; None outside pairs of languages."""
    language: str
    """Whose neurons are overridden; the language of the task."""
    task: str
    """lm-eval's name."""
    metric: str | None = None
    """lm-eval's name; ``name,filter`` where the task has filters. None in a failed cell."""
    value: float | None = None
    """None in a failed cell, and where the metric is not a number."""
    stderr: float | None = None
    """lm-eval's standard error."""
    n: int | None = None
    """Documents."""
    requests: int | None = None
    """What the model was asked about these documents: one request per choice, where there are choices."""
    cut_prompts: int | None = None
    """How many of the requests lost the beginning of their prompt, as the model has too few positions."""
    bos: bool | None = None
    """Whether texts began with BOS."""
    samples: str | None = None
    """lm-eval's samples of this task, relative to the folder of the run."""
    results: str | None = None
    """lm-eval's results, relative to the folder of the run."""
    command: str
    """One line that gives the same numbers by hand."""
    limit: int | float | None = None
    """lm-eval's ``--limit``."""
    batch_size: int | str | None = None
    """lm-eval's ``--batch_size``."""
    neuron_set: str | None = None
    """Fingerprint of the NeuronSet."""
    neurons: int | None = None
    """Neurons of the language in it; None where nothing is overridden, or an older record does not say."""
    neurons_tied: float | None = None
    """Share of the language's neurons that its selector took out of equals, by their order; None where not known."""
    neurons_own: float | None = None
    """Share of the language's neurons that no other compared language has; None where not known."""
    neurons_common: float | None = None
    """Share of the language's neurons that all compared languages have; None where not known."""
    statistics: str | None = None
    """Fingerprint of the language's Statistics."""
    weights: str | None = None
    """Fingerprint of the weights; None where the model could not be loaded."""
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
    seconds: float | None = None
    """Time taken by the cell."""
    finished_at: str | None = None
    """When it ended: UTC, ISO 8601."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """Read a record that holds a path: two folders whose last part is the same stay two models."""
        path = values.get("model") if isinstance(values, dict) else None
        if not isinstance(path, str) or (name := name_in_file(path)) == path:
            return values
        return {"model_files": fingerprint(path), **values, "model": name}

    def __repr__(self) -> str:
        measured = "failed" if self.failed else f"{self.metric}={self.value}"
        names = ", ".join(map(repr, (self.model, self.selector, self.intervention, self.language, self.task)))
        return f"{type(self).__name__}({without_folders(names)}, {measured})"

    @property
    def drawn_by(self) -> str:
        """What draws a control, or the controls of a row: ``random`` where an older record does not say."""
        return self.control_kind or RANDOM

    @property
    def failed(self) -> bool:
        """Whether the cell gave no numbers."""
        return self.status == "failed"

    @property
    def is_baseline(self) -> bool:
        """Whether nothing was overridden."""
        return changes_nothing(self.intervention)


class Records(list[Record], Shown):
    """The records of a run."""

    def __repr__(self) -> str:
        cells = len({record.cell for record in self})
        return f"Records({len(self):,} of {cells:,} cells, {', '.join(dict.fromkeys(one.model for one in self))})"


def load(path: str | Path) -> Records:
    """Read the records of a run: whole cells only, and of each cell what was recorded last.

    Lines that a kill cut off are left out, with a warning; the sweep runs their cell again.

    Args:
        path: ``records.jsonl``, or the folder of a run.

    Raises:
        LnbenchError: there is no such file, or a line before the last is not a record.
    """
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    records, cut = _read(path)
    if cut:
        log.warning("%s: left out %s", path, cut)
    return Records(records)


def repair(path: Path) -> tuple[list[Record], str]:
    """Load as :func:`load` does, and rewrite the file without what a kill cut off. Only for the process that appends.

    Returns:
        The records, and what was taken out, in words; empty if the file was whole. A missing file has no records.
    """
    if not path.exists():
        return [], ""
    records, cut = _read(path)
    if cut:
        replace(path, records)
    return records, cut


def replace(path: Path, records: Iterable[Record]) -> None:
    """Rewrite a file of records; if that fails, it is left as it was."""
    with atomic_path(path) as whole:
        whole.write_bytes(_lines(records))


def append(path: Path, records: Sequence[Record]) -> None:
    """Add all lines of one cell, and fsync them.

    Raises:
        LnbenchError: they cannot be written, e.g. because the disk is full; the file is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        before, lines = file.tell(), _lines(records)
        try:
            while lines:
                lines = lines[file.write(lines) :]
            try:
                os.fsync(file.fileno())
            except OSError as error:
                accept_unsynced(path, error)
        except OSError as error:
            file.truncate(before)
            raise LnbenchError(f"cannot write {path}: {error.strerror or error}; run the same command again") from error


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(record.model_dump_json().encode() + b"\n" for record in records)


def _read(path: Path) -> tuple[list[Record], str]:
    """Return the records of whole cells, each as it was tried last, and what was cut off, in words."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error
    records = [_record(line, f"{path}, line {number},") for number, line in enumerate(lines, start=1)]
    succeeded = {record.cell for record in records if not record.failed}
    failures = {record.cell: record for record in records if record.failed and record.cell not in succeeded}
    latest = [record for record in records if not record.failed or failures.get(record.cell) is record]
    counts = Counter(record.cell for record in latest)
    kept = [record for record in latest if counts[record.cell] == record.lines]
    parts = ["a half-written line"] if rest else []
    if torn := {record.cell for record in latest} - {record.cell for record in kept}:
        parts.append(f"the lines of a cell that was not fully recorded ({', '.join(sorted(torn))})")
    return kept, " and ".join(parts)


def _record(line: bytes, where: str) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        remedy = "delete that line, and the sweep runs its cell again"
        raise LnbenchError(f"{where} is no record ({first_error(error)}); {remedy}") from error
