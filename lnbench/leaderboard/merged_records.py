"""The records of runs, merged, with each document's value from lm-eval's samples."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
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
_IDENTIFYING = ("doc_id", "doc_hash", "prompt_hash", "filter")
_TOLERANCE = 1e-6
"""Relative difference up to which two numbers are the same."""
_PRECISE = ("float32", "float64", None)
_ROUNDING, _ROUNDING_COARSE = 1e-4, 2e-2
"""Relative difference that rounding can make to a mean over documents: in these types, and in shorter ones."""
_FLIPPED = 0.01
"""Share of documents that it can make right or wrong; one at least."""
_ROUNDED = "measured in more than one run, with other rounding; this is the first"


@dataclass(frozen=True)
class Answers:
    """Which choices were predicted in a multiple-choice task."""

    chance: float
    """The accuracy of one choice at random, a mean over the documents."""
    top_choice: str
    """The one that was predicted most often: its text, or its number where texts differ by document."""
    top_share: float
    """The share of the predictions that it takes."""


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
    task_title: str | None = None
    higher_is_better: bool | None = None
    answers: Answers | None = None
    """Of an accuracy over choices."""


def read_runs(runs: Iterable[str | Path]) -> list[Result]:
    """Return all results of several runs.

    The same cell in two runs counts once, the first time; of a cell that failed in one run and not in another, the
    failure is dropped.

    Args:
        runs: Folders of sweeps, or ``records.jsonl`` files.

    Raises:
        LnbenchError: a file is missing or damaged; two runs disagree about the same cell.
    """
    measured: dict[tuple[Any, ...], list[tuple[Record, Path]]] = defaultdict(list)
    files = {path.resolve(): path for path in (run / records.FILE if run.is_dir() else run for run in map(Path, runs))}
    loaded = {file: records.load(file) for file in files.values()}
    models = models_apart([record for of_file in loaded.values() for record in of_file])
    for file, of_file in loaded.items():
        for record in (record.model_copy(update=models[record.model, record.model_files]) for record in of_file):
            same = measured[record.cell, record.source, record.language, record.task, record.metric]
            same.append((record, file.parent))
            _check_same(*same[0], *same[-1])
    succeeded = {same[0][0].cell for same in measured.values() if not same[0][0].failed}
    reader, results = _Reader(), []
    for same in measured.values():
        first = same[0][0]
        if first.failed and first.cell in succeeded:
            continue
        differs = any(not _same(record.value, first.value) for record, _ in same)
        for number, (record, folder) in enumerate(same):
            result = reader.result(record, folder)
            results.append(replace(result, run=folder, repeated=number > 0, note=_ROUNDED if differs else None))
    return results


def models_apart(loaded: Iterable[Record]) -> dict[tuple[str, str | None], dict[str, str | None]]:
    """Return what is to be recorded of each model, by its name and files, so that two models never share a name.

    Folders that hold the same weights under one name are one model, wherever they are; of others with that name, each
    has the beginning of its fingerprint behind the name.
    """
    alike: dict[tuple[str | None, ...], set[str | None]] = defaultdict(set)
    for record in loaded:
        weights = record.weights if record.finetune == records.BASELINE else None
        about = (weights, record.dtype, record.quantization) if weights else (None, record.model_files)
        alike[record.model, *about].add(record.model_files)
    groups: list[set[tuple[str, str | None]]] = []
    for (model, *_), files in alike.items():
        own_files = {(str(model), own) for own in files}
        # What has weights of one group and files of another joins both.
        joined = own_files.union(*(group for group in groups if group & own_files))
        groups = [*(group for group in groups if not group & joined), joined]
    first = {each: min(own or "" for _, own in group) for group in groups for each in group}
    several = Counter(model for model, _ in {(model, shared) for (model, _), shared in first.items()})
    return {
        (model, own): {
            "model": f"{model} ({shared[:8]})" if shared and several[model] > 1 else model,
            "model_files": shared or None,
        }
        for (model, own), shared in first.items()
    }


def _check_same(first: Record, folder: Path, second: Record, other_folder: Path) -> None:
    """Make sure that two runs have the same numbers for one cell.

    Raises:
        LnbenchError: they have not.
    """
    if first.n != second.n or not _rounding_explains(first, second):
        raise LnbenchError(
            f"{folder} and {other_folder} disagree about the cell {first.cell} ({first.model}, {first.selector}, "
            f"{first.intervention}, {first.task}, {first.metric}): {first.value} on {first.n} documents and "
            f"{second.value} on {second.n}; leave out one of the runs, or measure the cell again"
        )


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _rounding_explains(first: Record, second: Record) -> bool:
    """Return whether rounding by batch size or hardware can explain the difference."""
    if first.value is None or second.value is None or _same(first.value, second.value):
        return _same(first.value, second.value)
    documents = first.n or 1
    counts = [value * documents for value in (first.value, second.value)]
    if all(0 <= count <= documents and _same(count, round(count)) for count in counts):
        # A share of documents: where two choices are as likely as each other, rounding decides.
        return abs(counts[0] - counts[1]) <= max(1, _FLIPPED * documents) + _TOLERANCE
    precise = first.dtype in _PRECISE and first.quantization is None
    return math.isclose(first.value, second.value, rel_tol=_ROUNDING if precise else _ROUNDING_COARSE)


class _Reader:
    """Reads lm-eval's files, and keeps numbers only."""

    def __init__(self) -> None:
        self._results = lru_cache(8)(read_json)
        # The records that share a file follow one another.
        self._samples = lru_cache(1)(_samples_and_answers)
        self._documents: dict[tuple[Document, ...], tuple[Document, ...]] = {}

    def result(self, record: Record, folder: Path) -> Result:
        """Return a record with its documents.

        Raises:
            LnbenchError: a file that it names is missing or damaged.
        """
        if record.failed or record.metric is None:
            return Result(record)
        results = self._results(inside(folder, record.results)) if record.results else {}
        name = record.metric.partition(",")[0]
        about: dict[str, Any] = {
            "task_version": _held(results, str | int | float, "versions", record.task),
            "task_title": _held(results, str, "configs", record.task, "metadata", "title"),
            "higher_is_better": _held(results, bool, "higher_is_better", record.task, name),
        }
        if record.samples is None:
            return Result(record, problem="lm-eval kept no samples", **about)
        samples, answers = self._samples(inside(folder, record.samples))
        values, problem = values_of(samples, record.metric, record.value)
        if name == "acc":
            about["answers"] = answers
        documents = tuple(sorted(values, key=repr))
        # Most cells have the documents of others: they are kept once.
        documents = self._documents.setdefault(documents, documents)
        return Result(record, documents, np.array([values[document] for document in documents]), problem, **about)


def _held(content: Any, kind: Any, *keys: str) -> Any:
    """Return what nested objects hold under some keys; None where it is missing, or not of its kind."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, kind) else None


def inside(run: Path, name: str) -> Path:
    """Return a file that a run's records name.

    Raises:
        LnbenchError: it lies outside the run's folder: a run from elsewhere must not show files of this machine.
    """
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()):
        raise LnbenchError(f"{run / records.FILE} names {name}, which is not a file of this run")
    return path


def _samples_and_answers(path: Path) -> tuple[list[Sample], Answers | None]:
    """Return a file's samples, and which choices were predicted; None where a document has no choices."""
    samples: list[Sample] = []
    predicted: dict[Document, tuple[int, int, str]] = {}
    for line in lines_of(path):
        document = (line["doc_id"], line["doc_hash"], line.get("prompt_hash"))
        samples.append((document, line.get("filter", "none"), {name: line.get(name) for name in line["metrics"]}))
        if (prediction := _prediction(line)) is not None:
            predicted[document] = prediction
    documents = {document for document, _, _ in samples}
    return samples, _answers(list(predicted.values())) if predicted.keys() == documents else None


def _prediction(line: Mapping[str, Any]) -> tuple[int, int, str] | None:
    """Return the number of the likeliest choice, of how many, and its text; None where nothing was chosen from."""
    responses = line.get("filtered_resps")
    if not isinstance(responses, list) or "acc" not in line["metrics"]:
        return None
    if "acc_mutual_info" in line["metrics"]:
        # The second half is of the choices without their context.
        responses = responses[: len(responses) // 2]
    try:
        likelihoods = [float(likelihood) for likelihood, _ in responses]
    except (TypeError, ValueError):
        return None
    if len(likelihoods) < 2 or any(map(math.isnan, likelihoods)):
        return None
    best = likelihoods.index(max(likelihoods))
    arguments = line.get("arguments")
    asked = list(arguments.values())[best] if isinstance(arguments, dict) and len(arguments) > best else None
    return best, len(likelihoods), str(asked.get("arg_1", "")).strip() if isinstance(asked, dict) else ""


def _answers(predictions: Sequence[tuple[int, int, str]]) -> Answers | None:
    if not predictions:
        return None
    (top, count), *_ = Counter(number for number, _, _ in predictions).most_common(1)
    texts = {text for number, _, text in predictions if number == top}
    text = texts.pop() if len(texts) == 1 else ""
    chance = math.fsum(1 / choices for _, choices, _ in predictions) / len(predictions)
    return Answers(chance, text or f"choice {top + 1}", count / len(predictions))


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield lm-eval's samples as they are in the file.

    Raises:
        LnbenchError: the file is missing or damaged, or a line has no document, or no names of metrics.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for sample in map(json.loads, file):
                if not {"doc_id", "doc_hash"} <= sample.keys() or not isinstance(sample.get("metrics"), list):
                    raise ValueError("a line has no doc_id, doc_hash or metrics")
                names = [*sample["metrics"], *(sample.get(name) for name in _IDENTIFYING)]
                if wrong := [name for name in names if not isinstance(name, str | int | None)]:
                    raise ValueError(f"a line has {type(wrong[0]).__name__} where a name or number is expected")
                yield sample
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}; run the sweep again") from error
    except (ValueError, AttributeError, RecursionError) as error:
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
    scores = {
        document: values[name] for document, used, values in samples if used == (chosen or "none") and name in values
    }
    if not scores:
        return {}, f"lm-eval's samples have no {metric}"
    if not all(isinstance(score, int | float) for score in scores.values()):
        return {}, f"{metric} is made from all documents together: they have no values of their own"
    try:
        numbers = {document: float(score) for document, score in scores.items()}
    except OverflowError:
        return {}, f"a document's {metric} is beyond floating point"
    if undefined := sum(not math.isfinite(number) for number in numbers.values()):
        return {}, f"{undefined} of {len(numbers)} documents have no finite {metric}"
    mean = math.fsum(numbers.values()) / len(numbers)
    if value is not None and not _same(mean, value):
        return {}, f"{metric} is not the mean of its documents ({value:.6g}, mean {mean:.6g})"
    return numbers, None
