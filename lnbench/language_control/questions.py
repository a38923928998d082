"""The questions of the lm-eval tasks ``lnbench_clas_{language}`` and ``lnbench_demo_open_{language}``.

The language of a task is that of its questions, the source of a pair. The target is the experiment's: lm-eval lays the
model arguments ``language=`` and ``source=`` over a task's metadata, and so they reach :func:`clas` and
:func:`demo_open`. Without ``language=`` the target is the questions' own language.

CLaS-Bench's questions are read from ``clas/{language}.jsonl.gz`` in the folder that the metadata key ``lnbench_data``,
else ``$LNBENCH_DATA``, names, else from the Hugging Face Hub.

Source: Gurgurov et al. 2026, https://arxiv.org/abs/2601.08331
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import datasets
from pydantic import Field

from lnbench import demo
from lnbench.corpora.identification import is_identifiable, primary_of
from lnbench.data_folder import DATA_VARIABLE, data_folder
from lnbench.errors import LnbenchError, unknown
from lnbench.language_control.prompts import FRAME, check_frame
from lnbench.passing_faults import retried
from lnbench.task_data import TaskRow, as_dataset, local_file, missing_file, rows_of_file
from lnbench.task_languages import AUTO

SPLITS = ("test", "tune", "all")
"""Values of the metadata key ``clas_split``."""
_TUNE_EVERY = 5
"""Of this many questions, the first is for choosing layer and strength, and is not reported."""
_TASK = re.compile("lnbench_(?:clas|demo_open)(?:_([a-z]+))?")
_HUB = "DGurgurov/CLaS-Bench"


def source_of(task: str) -> str | None:
    """Return the language of the questions of one of our tasks of pairs; None: it is another task, or a group."""
    match = _TASK.fullmatch(task)
    return match and match[1]


def is_of_pairs(task: str) -> bool:
    """Return whether what a task or group measures depends on the target, besides what the model answers."""
    return _TASK.fullmatch(task) is not None


class QuestionRow(TaskRow):
    """An open question; parallel ones have one ``id`` in all languages."""

    id: str | int
    question: str = Field(min_length=1)


def clas(*, lnbench_language: str, lnbench_data: str | None = None, **options: object) -> datasets.DatasetDict:
    """Return the split ``test`` of CLaS-Bench's questions in one language; see :func:`of_pair`.

    Args:
        lnbench_language: Language of the questions.
        lnbench_data: Folder with the data; by default ``$LNBENCH_DATA``, else the hub is asked.
        options: The task's metadata.

    Raises:
        LnbenchError: as :func:`of_pair`; a missing or damaged file, an invalid row, or the hub cannot be reached.
    """
    folder, stem = data_folder(lnbench_data), f"clas/{lnbench_language}"
    if folder is None:
        rows = as_dataset(_hub_rows(lnbench_language, stem), QuestionRow, lnbench_language)
    elif file := local_file(folder, stem):
        rows = rows_of_file(file, QuestionRow, lnbench_language)
    else:
        raise missing_file(folder, stem)
    return of_pair(rows, lnbench_language, **options)


def demo_open(*, lnbench_language: str, **options: object) -> datasets.DatasetDict:
    """Return the split ``test`` of the embedded questions in one language; see :func:`of_pair`."""
    if lnbench_language not in demo.LANGUAGES:
        raise unknown("demo language", lnbench_language, demo.LANGUAGES)
    rows = rows_of_file(demo.DATA / "questions" / f"{lnbench_language}.jsonl", QuestionRow, lnbench_language)
    return of_pair(rows, lnbench_language, **options)


def of_pair(
    rows: datasets.Dataset,
    asked: str,
    *,
    language: object = AUTO,
    source: object = None,
    clas_split: object = SPLITS[0],
    lnbench_frame: object = "auto",
    **_: object,
) -> datasets.DatasetDict:
    """Return questions with what their answers are scored by, as the split ``test``.

    Args:
        rows: ``id`` and ``question``.
        asked: The language of the questions.
        language: The target, which answers should be in; ``auto``: the questions' own language.
        source: The source language of the experiment, where it names one.
        clas_split: ``test``; ``tune``, every fifth question, to choose layer and strength on; or ``all``.
        lnbench_frame: See :data:`lnbench.language_control.prompts.FRAMES`.

    Returns:
        Columns ``id``, ``prompt``, ``language`` and ``source`` (that of the question), ``target``, ``split``, and
        ``lnbench_frame``.

    Raises:
        LnbenchError: an unknown split or frame, a target that is not identified, a source that is not the questions'.
    """
    if clas_split not in SPLITS:
        raise unknown("clas_split", clas_split, SPLITS)
    target = asked if language in (None, AUTO) else str(language)
    if not is_identifiable(target):
        raise LnbenchError(
            f"language={target}: answers in it cannot be told from others, as fastText's lid.176 does not know it"
        )
    if source not in (None, "") and primary_of(str(source)) != primary_of(asked):
        raise LnbenchError(
            f"source={source}, and the questions of this task are in {asked!r}: ask the task of the source language"
        )
    keep = [number for number in range(len(rows)) if clas_split in ("all", "test" if number % _TUNE_EVERY else "tune")]
    rows = rows.select(keep).rename_column("question", "prompt")
    columns = {"source": asked, "target": target, "split": clas_split, FRAME: check_frame(lnbench_frame)}
    for name, value in columns.items():
        rows = rows.add_column(name, [value] * len(rows))
    return datasets.DatasetDict(test=rows)


def _hub_rows(language: str, stem: str) -> Iterator[tuple[str, object]]:
    try:
        rows = retried(lambda: datasets.load_dataset(_HUB, split="train"), _HUB)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise LnbenchError(
            f"cannot load {_HUB} from the Hugging Face Hub: {error}; connect to it, or set {DATA_VARIABLE} to a folder "
            f"that holds {stem}.jsonl.gz"
        ) from error
    known: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        known[str(row.get("language_code"))] = None
        if row.get("language_code") == language:
            yield f"{_HUB}, row {number}", {"id": row.get("question_id"), "question": row.get("question")}
    if language not in known:
        raise unknown(f"{_HUB} language", language, sorted(known), f"A folder named by {DATA_VARIABLE} can hold others")
