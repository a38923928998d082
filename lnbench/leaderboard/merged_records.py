"""The records of runs, merged, with each document's value from lm-eval's samples."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
"""Relative difference up to which two numbers are the same."""
_PRECISE = ("float32", "float64", None)
_ROUNDING, _ROUNDING_COARSE = 1e-4, 2e-2
"""Relative difference that rounding can make to a mean over documents: in these types, and in shorter ones."""
_FLIPPED = 0.01
"""Share of documents that it can make right or wrong; one at least."""
_ROUNDED = "measured in more than one run, with other rounding; this is the first"


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
    run: Path = Path()
    """The folder that it is from."""
    repeated: bool = False
    """Whether another run has it already: it is compared with others of its run, and has no row of its own."""
    note: str | None = None
    """What the reader of its row should know."""
    task_version: str | float | None = None
    higher_is_better: bool | None = None


def read_runs(runs: Iterable[str | Path]) -> list[Result]:
    """Return all results of several runs.

    The same cell in two runs counts once, the first time; of a cell that failed in one run and not in another, the
    failure is dropped.

    Args:
        runs: Folders of sweeps, or ``records.jsonl`` files.

    Raises:
        LnbenchError: a file is missing or damaged; two runs disagree about the same cell.
    """
    found: dict[tuple[Any, ...], list[tuple[Record, Path]]] = {}
    files = {path.resolve(): path for path in (run / records.FILE if run.is_dir() else run for run in map(Path, runs))}
    for file in files.values():
        folder = file.parent
        for record in records.load(file):
            same = found.setdefault((record.cell, record.language, record.task, record.metric), [])
            if same:
                _check_same(same[0], (record, folder))
            same.append((record, folder))
    succeeded = {key[0] for key, same in found.items() if not same[0][0].failed}
    reader, results = _Reader(), []
    for key, same in found.items():
        if same[0][0].failed and key[0] in succeeded:
            continue
        differs = any(not _same(record.value, same[0][0].value) for record, _ in same)
        for number, (record, folder) in enumerate(same):
            result = reader.result(record, folder)
            results.append(replace(result, run=folder, repeated=number > 0, note=_ROUNDED if differs else None))
    return results


def _check_same(first: tuple[Record, Path], second: tuple[Record, Path]) -> None:
    """Make sure that two runs have the same numbers for one cell.

    Raises:
        LnbenchError: they have not.
    """
    (one, here), (other, there) = first, second
    if one.n == other.n and _equal_but_for_rounding(one, other):
        return
    raise LnbenchError(
        f"{here} and {there} disagree about the cell {one.cell} ({one.model}, {one.selector}, {one.intervention}, "
        f"{one.task}, {one.metric}): {one.value} on {one.n} documents and {other.value} on {other.n}; leave out one of "
        "the runs, or measure the cell again"
    )


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _equal_but_for_rounding(one: Record, other: Record) -> bool:
    """Return whether rounding by batch size or hardware can explain the difference."""
    if one.value is None or other.value is None or _same(one.value, other.value):
        return _same(one.value, other.value)
    relative = _ROUNDING if one.dtype in _PRECISE and one.quantization is None else _ROUNDING_COARSE
    documents = one.n or 1
    counts = [value * documents for value in (one.value, other.value)]
    if all(0 <= count <= documents and _same(count, round(count)) for count in counts):
        # A share of documents: where two choices are as likely as each other, rounding decides.
        return abs(counts[0] - counts[1]) <= max(1, _FLIPPED * documents) + _TOLERANCE
    return math.isclose(one.value, other.value, rel_tol=relative)


class _Reader:
    """Reads lm-eval's files, and keeps numbers only."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._samples: list[Sample] = []
        self._results: dict[Path, dict[str, Any]] = {}
        self._known: dict[tuple[Document, ...], tuple[Document, ...]] = {}

    def result(self, record: Record, folder: Path) -> Result:
        """Return a record with its documents.

        Raises:
            LnbenchError: a file that it names is missing or damaged.
        """
        if record.failed or record.metric is None:
            return Result(record)
        results = self._results_in(inside(folder, record.results)) if record.results else {}
        name = record.metric.partition(",")[0]
        about = {
            "task_version": results.get("versions", {}).get(record.task),
            "higher_is_better": results.get("higher_is_better", {}).get(record.task, {}).get(name),
        }
        if record.samples is None:
            return Result(record, problem="lm-eval kept no samples", **about)
        found, problem = values_of(self._read(inside(folder, record.samples)), record.metric, record.value)
        documents = tuple(sorted(found, key=repr))
        values = np.array([found[document] for document in documents], dtype=float)
        # Most cells have the documents of others: they are kept once.
        return Result(record, self._known.setdefault(documents, documents), values, problem, **about)

    def _results_in(self, path: Path) -> dict[str, Any]:
        if path not in self._results:
            found = read_json(path)
            self._results[path] = {key: found.get(key) or {} for key in ("versions", "higher_is_better")}
        return self._results[path]

    def _read(self, path: Path) -> list[Sample]:
        """Return the samples of a file; the records that share one follow one another."""
        if path != self._path:
            self._samples, self._path = list(_samples(path)), path
        return self._samples


def inside(run: Path, name: str) -> Path:
    """Return a file that a run's records name.

    Raises:
        LnbenchError: it lies outside the run's folder: a run from elsewhere must not show files of this machine.
    """
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()):
        raise LnbenchError(f"{run / records.FILE} names {name}, which is not a file of this run")
    return path


def _samples(path: Path) -> Iterator[Sample]:
    try:
        for sample in lines_of(path):
            values = {name: sample.get(name) for name in sample["metrics"]}
            document = (sample["doc_id"], sample["doc_hash"], sample.get("prompt_hash"))
            yield document, sample.get("filter", "none"), values
    except (KeyError, TypeError, AttributeError) as error:
        raise LnbenchError(f"{path} is not a file of lm-eval's samples ({error}); run the sweep again") from error


def lines_of(path: Path) -> Iterator[Any]:
    """Yield lm-eval's samples as they are in the file.

    Raises:
        LnbenchError: the file is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}; run the sweep again") from error
    except ValueError as error:
        raise LnbenchError(f"{path} is not a file of lm-eval's samples ({error}); run the sweep again") from error


def values_of(samples: Sequence[Sample], metric: str, value: float | None) -> tuple[dict[Document, float], str | None]:
    """Return one metric's value for each document.

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
