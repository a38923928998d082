"""The records of runs, merged, with each document's value from lm-eval's samples."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lnbench.errors import LnbenchError
from lnbench.files import read_json
from lnbench.sweeps import records
from lnbench.sweeps.records import Record

Document = tuple[Any, ...]
"""lm-eval's number and hash of a document, and the hash of the prompt that was made from it."""
Sample = tuple[Document, str, Mapping[str, Any]]
"""A document, lm-eval's filter, and metric → value."""
_TOLERANCE = 1e-6
"""Relative difference up to which two numbers are the same measurement."""


@dataclass(frozen=True)
class Result:
    """One record, and its value for each document."""

    record: Record
    documents: tuple[Document, ...] = ()
    """In one order, whichever file they are from."""
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """``[documents]``."""
    problem: str | None = None
    """Why its documents cannot be compared."""
    task_version: str | float | None = None
    higher_is_better: bool | None = None


def read_runs(runs: Iterable[str | Path]) -> list[Result]:
    """All results of several runs.

    The same cell in two runs counts once; of a cell that failed in one run and not in another, the failure is dropped.

    Args:
        runs: Folders of sweeps, or ``records.jsonl`` files.

    Raises:
        LnbenchError: a file is missing or damaged; two runs disagree about the same cell.
    """
    found: dict[tuple[Any, ...], tuple[Record, Path]] = {}
    for run in map(Path, runs):
        for record in records.load(run):
            key = (record.cell, record.language, record.task, record.metric)
            if key in found:
                _check_same(found[key], (record, run))
            else:
                found[key] = (record, run)
    succeeded = {key[0] for key, (record, _) in found.items() if not record.failed}
    kept = [(record, run) for key, (record, run) in found.items() if not (record.failed and key[0] in succeeded)]
    reader = _Reader()
    return [reader.result(record, run if run.is_dir() else run.parent) for record, run in kept]


def _check_same(first: tuple[Record, Path], second: tuple[Record, Path]) -> None:
    """Raises:
    LnbenchError: the two runs have other numbers for one cell.
    """
    (one, here), (other, there) = first, second
    if _same(one.value, other.value) and one.n == other.n:
        return
    raise LnbenchError(
        f"{here} and {there} disagree about the cell {one.cell} ({one.model}, {one.selector}, {one.intervention}, "
        f"{one.task}, {one.metric}): {one.value} on {one.n} documents and {other.value} on {other.n}; leave out one of "
        "the runs, or measure the cell anew"
    )


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


class _Reader:
    """Reads lm-eval's files, and keeps numbers only."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._samples: list[Sample] = []
        self._results: dict[Path, dict[str, Any]] = {}
        self._known: dict[tuple[Document, ...], tuple[Document, ...]] = {}

    def result(self, record: Record, folder: Path) -> Result:
        """A record with its documents.

        Raises:
            LnbenchError: a file that it names is missing or damaged.
        """
        if record.failed or record.metric is None:
            return Result(record)
        told = self._told(folder / record.results) if record.results else {}
        name = record.metric.partition(",")[0]
        about = {
            "task_version": told.get("versions", {}).get(record.task),
            "higher_is_better": told.get("higher_is_better", {}).get(record.task, {}).get(name),
        }
        if record.samples is None:
            return Result(record, problem="lm-eval kept no samples", **about)
        found, problem = values_of(self._read(folder / record.samples), record.metric, record.value)
        documents = tuple(sorted(found, key=repr))
        values = np.array([found[document] for document in documents], dtype=float)
        # Most cells have the documents of others: they are kept once.
        return Result(record, self._known.setdefault(documents, documents), values, problem, **about)

    def _told(self, path: Path) -> dict[str, Any]:
        if path not in self._results:
            found = read_json(path)
            self._results[path] = {key: found.get(key) or {} for key in ("versions", "higher_is_better")}
        return self._results[path]

    def _read(self, path: Path) -> list[Sample]:
        """The samples of a file; the records that share one follow one another."""
        if path != self._path:
            self._samples, self._path = list(_samples(path)), path
        return self._samples


def _samples(path: Path) -> Iterator[Sample]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                sample = json.loads(line)
                values = {name: sample.get(name) for name in sample["metrics"]}
                document = (sample["doc_id"], sample["doc_hash"], sample.get("prompt_hash"))
                yield document, sample.get("filter", "none"), values
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}; run the sweep again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LnbenchError(f"{path} is not a file of lm-eval's samples ({error}); run the sweep again") from error


def values_of(samples: Sequence[Sample], metric: str, value: float | None) -> tuple[dict[Document, float], str | None]:
    """One metric's value for each document.

    Args:
        samples: Of one task.
        metric: ``name``, or ``name,filter``.
        value: What lm-eval made of the documents' values.

    Returns:
        The values; or none, and why they cannot be compared document by document.
    """
    name, _, chosen = metric.partition(",")
    found = {
        document: values[name] for document, used, values in samples if used == (chosen or "none") and name in values
    }
    if not found:
        return {}, f"lm-eval's samples have no {metric}"
    if not all(isinstance(one, int | float) for one in found.values()):
        return {}, f"{metric} is made from all documents together: they have no values of their own"
    numbers = {document: float(one) for document, one in found.items()}
    if undefined := sum(not math.isfinite(one) for one in numbers.values()):
        return {}, f"{undefined} of {len(numbers)} documents have no finite {metric}"
    mean = math.fsum(numbers.values()) / len(numbers)
    if value is not None and not _same(mean, value):
        return {}, f"{metric} is not the mean of its documents ({value:.6g}, mean {mean:.6g})"
    return numbers, None
