"""What the model wrote: one prompt, continued by the unchanged model, under an intervention, and under its control."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lnbench.leaderboard import Row
from lnbench.leaderboard.merged_records import inside
from lnbench.report.inputs import Sources
from lnbench.report.samples import Sample, read_samples
from lnbench.sweeps.records import BASELINE, Record
from lnbench.tables.plain_names import language_name, pair_name, plain_action
from lnbench.tables.words import control_units

_LONGEST = 110
"""Characters of an answer that are shown."""
_LANGUAGE_METRICS = ("answer_language", "lfs", "line_pass", "line_acc")
"""Metrics that tell whether an answer is in its language, the first that a task has."""


@dataclass(frozen=True)
class WrittenLine:
    """One answer, and who wrote it."""

    whose: str
    text: str


@dataclass(frozen=True)
class Written:
    """One prompt and its continuations."""

    prompt: str
    language: str
    """Code of the language that it is in."""
    lines: Sequence[WrittenLine]

    @property
    def language_name(self) -> str:
        """The language's English name."""
        return language_name(self.language)


_Samples = Mapping[tuple[int, str], Sample]


def written(sources: Sources, finding: Sequence[Row]) -> Written | None:
    """Return the most telling answers of any task whose answers are written; None without any.

    The document is one whose answer leaves its language under the intervention, by the task's own metric; else the
    first whose answer is another. The intervention is the headline's, where it was measured on such a task.

    Raises:
        LnbenchError: a file that a record names is missing or damaged.
    """
    wanted = {(row.selector, row.intervention) for row in finding}
    strongest = {row.language: abs(row.delta or 0.0) for row in finding}
    best: tuple[tuple[Any, ...], Written] | None = None
    for cells in _cells(sources):
        plain = next((cell.samples for cell in cells if cell.record.is_baseline), {})
        if not any(sample.is_generated for sample in plain.values()):
            continue
        for cell in cells:
            if cell.record.is_baseline or cell.record.control_of is not None:
                continue
            control = next((other for other in cells if other.is_control_of(cell)), None)
            asked = (sources.named(cell.record.selector), cell.record.intervention) in wanted
            for key, left in _telling(plain, cell.samples):
                rank = (left, asked, control is not None, strongest.get(cell.record.language, 0.0))
                if best is None or rank > best[0]:
                    best = rank, _of(key, plain, cell, control)
    return None if best is None else best[1]


@dataclass(frozen=True)
class _Cell:
    """One cell of a sweep."""

    record: Record
    file: Path

    @cached_property
    def samples(self) -> _Samples:
        """Its samples by document."""
        return read_samples(self.file)

    def is_control_of(self, other: _Cell) -> bool:
        """Return whether it does the same to units that a control drew for another cell."""
        same = ("language", "source", "intervention")
        return self.record.control_of == other.record.selector and all(
            getattr(self.record, name) == getattr(other.record, name) for name in same
        )


def _cells(sources: Sources) -> list[list[_Cell]]:
    """Return the cells of each model and task, without adapters."""
    cells: dict[tuple[Any, ...], dict[str, _Cell]] = defaultdict(dict)
    for result in sources.results:
        record = result.record
        if record.samples and record.finetune == BASELINE and not result.repeated:
            key = (record.model, record.dtype, record.quantization, record.setup, record.seed, record.task)
            cells[key].setdefault(record.cell, _Cell(record, inside(result.run, record.samples)))
    return [list(of_task.values()) for of_task in cells.values()]


def _telling(plain: _Samples, changed: _Samples) -> Iterator[tuple[tuple[int, str], bool]]:
    """Yield documents with another answer, and whether it left its language, by the task's own metric."""
    for key, before in plain.items():
        after = changed.get(key)
        if after is None or not before.answer.strip() or not after.answer.strip() or after.answer == before.answer:
            continue
        metric = next((name for name in _LANGUAGE_METRICS if name in before.scores and name in after.scores), None)
        yield key, metric is not None and before.scores[metric] > after.scores[metric]


def _of(key: tuple[int, str], plain: _Samples, cell: _Cell, control: _Cell | None) -> Written:
    record = cell.record
    done = plain_action(record.intervention, f"{pair_name(record.language, record.source)}'s neurons")
    lines = [WrittenLine("The model as it is", _line(plain[key]))]
    lines.append(WrittenLine(f"{done[0].upper()}{done[1:]}", _line(cell.samples[key])))
    if control is not None and key in control.samples:
        units = control_units(control.record.drawn_by)
        lines.append(WrittenLine(f"{units[0].upper()}{units[1:]}", _line(control.samples[key])))
    return Written(_end(plain[key].text), record.language, lines)


def _line(sample: Sample) -> str:
    """Return an answer in one line."""
    text = " ".join(sample.answer.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _end(text: str) -> str:
    """Return the end of a prompt in one line, as what is continued comes last."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"…{line[1 - _LONGEST :]}"
