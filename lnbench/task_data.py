"""Where the rows of lnbench's lm-eval tasks come from: the Hugging Face Hub, a local folder, or the embedded text.

lm-eval calls a task's ``custom_dataset`` with the task's metadata (in which the user's model arguments and
``--metadata`` win over the YAML) and its ``dataset_kwargs``. The language therefore travels in ``dataset_kwargs`` as
``lnbench_language``, and every row carries it in the column ``language``, where nothing can overwrite it.

XNLI and XQuAD are read from the folder named by the metadata key ``lnbench_data``, else by ``$LNBENCH_DATA``, else from
the hub. The folder holds ``xnli/{language}.{test,validation}.jsonl.gz`` and ``xquad/{language}.jsonl.gz`` (or the same
names without ``.gz``). Rows have the same columns, types and order wherever they come from.

Sources:
    XNLI: Conneau et al. 2018, https://aclanthology.org/D18-1269
    XQuAD: Artetxe, Ruder and Yogatama 2020, https://aclanthology.org/2020.acl-main.421
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lnbench import answer_rules, content_hash, demo
from lnbench.data_folder import DATA_VARIABLE, data_folder
from lnbench.errors import LnbenchError, unknown
from lnbench.files import reading
from lnbench.formats import validated
from lnbench.passing_faults import retried

_FOLDERS = {"xnli": "xnli", "xquad": "xquad", "ppl": "corpus", "lcb": "lcb", "clas": "clas"}
"""Beginnings of our tasks → the folder in ``$LNBENCH_DATA`` that they read."""
XQUAD_PARTS = {"all": (0, 5), "first80": (0, 4), "last20": (4, 5)}
"""Values of the metadata key ``xquad_part``: its start and end in fifths (952 and 238 of XQuAD's 1,190 rows)."""

XQUAD_FRAMES = ("plain", "english")
"""Values of the metadata key ``xquad_frame``."""

logger = logging.getLogger(__name__)


class TaskRow(BaseModel):
    """A row of a task's data."""

    model_config = ConfigDict(strict=True, extra="ignore")


class NliRow(TaskRow):
    """A pair of sentences; 0 entailment, 1 neutral, 2 contradiction."""

    premise: str
    hypothesis: str
    label: int = Field(ge=0, le=2)


class Answers(TaskRow):
    """The gold answers of a question; ``answer_start`` counts characters in the context."""

    text: list[str] = Field(min_length=1)
    answer_start: list[int]

    @model_validator(mode="after")
    def _parallel(self) -> Answers:
        if len(self.text) != len(self.answer_start):
            raise ValueError("text and answer_start differ in length")
        return self


class QaRow(TaskRow):
    """A question on a passage, in SQuAD's form."""

    id: str
    context: str
    question: str
    answers: Answers


class ContinuationRow(TaskRow):
    """The beginning and the end of a short text."""

    context: str = Field(min_length=1)
    continuation: str = Field(min_length=1)


class PromptRow(TaskRow):
    """The beginning of a sentence."""

    prompt: str = Field(min_length=1)


@dataclass(frozen=True)
class Source:
    """A benchmark on the hub and in the data folder. ``config`` and ``file`` have ``{language}`` and ``{split}``."""

    hub: str
    config: str
    file: str
    languages: tuple[str, ...]
    row: type[TaskRow]

    def stem(self, language: str, split: str) -> str:
        """Return the file of a split in the data folder, without its suffix."""
        return self.file.format(language=language, split=split)


XNLI = Source(
    hub="facebook/xnli",
    config="{language}",
    file="xnli/{language}.{split}",
    languages=("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"),
    row=NliRow,
)
XQUAD = Source(
    hub="google/xquad",
    config="xquad.{language}",
    file="xquad/{language}",
    languages=("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"),
    row=QaRow,
)


def xnli(
    *, lnbench_language: str, lnbench_data: str | None = None, lnbench_choices: Sequence[str] = (), **_: object
) -> datasets.DatasetDict:
    """Return XNLI's ``test`` split, and ``validation`` for few-shot examples.

    A folder without the validation file serves zero-shot evaluation: ``validation`` is then empty.

    Args:
        lnbench_language: Language code.
        lnbench_data: Folder with the data; by default ``$LNBENCH_DATA``, else the hub is asked.
        lnbench_choices: What is scored for each label, with ``{hypothesis}`` in its place: column ``choices``.

    Raises:
        LnbenchError: unknown language, missing or damaged file, invalid row, or the hub cannot be reached.
    """
    folder = data_folder(lnbench_data)
    test = load_rows(XNLI, lnbench_language, "test", folder)
    stem = XNLI.stem(lnbench_language, "validation")
    if folder and not local_file(folder, stem):
        logger.warning("%s has no %s.jsonl.gz: few-shot examples for XNLI need it", folder, stem)
        validation = test.select(range(0))
    else:
        validation = load_rows(XNLI, lnbench_language, "validation", folder)
    return with_choices(datasets.DatasetDict(test=test, validation=validation), lnbench_choices)


def with_choices(splits: datasets.DatasetDict, templates: Sequence[str]) -> datasets.DatasetDict:
    """Add the column ``choices``, which scores of the right choice need beside lm-eval."""
    for name, rows in splits.items() if templates else ():
        choices = [
            [template.replace("{hypothesis}", hypothesis) for template in templates]
            for hypothesis in rows["hypothesis"]
        ]
        # Written out, as rows may be none.
        splits[name] = rows.add_column("choices", choices, feature=datasets.List(datasets.Value("string")))
    return splits


def xquad(
    *,
    lnbench_language: str,
    lnbench_data: str | None = None,
    xquad_part: str = "all",
    xquad_end_token: bool = False,
    answers: object = None,
    **_: object,
) -> datasets.DatasetDict:
    """Return XQuAD's only split, ``validation``.

    Args:
        lnbench_language: Language code.
        lnbench_data: Folder with the data; by default ``$LNBENCH_DATA``, else the hub is asked.
        xquad_part: ``all``, or ``last20`` to evaluate on the last 20 % after training on the rest (``first80``).
        xquad_end_token: Whether F1 counts the end of an answer as a token that all answers share, as in the paper's
            code.
        answers: How answers are normalised: ``remove`` and ``tokens`` of :class:`lnbench.answer_rules.AnswerRules`; by
            default the built-in rules of the language.

    Raises:
        LnbenchError: unknown language or part, missing or damaged file, invalid row, no rules for answers in the
            language, or the hub cannot be reached.
    """
    if xquad_part not in XQUAD_PARTS:
        raise unknown("xquad_part", xquad_part, XQUAD_PARTS)
    if not isinstance(xquad_end_token, bool):
        raise LnbenchError(f"xquad_end_token is true or false, not {xquad_end_token!r}")
    rules = answer_rules.check(lnbench_language, answers)
    rows = load_rows(XQUAD, lnbench_language, "validation", data_folder(lnbench_data))
    first, last = (fifth * len(rows) // 5 for fifth in XQUAD_PARTS[xquad_part])
    if first == last:
        raise LnbenchError(f"xquad_part={xquad_part} of {len(rows)} XQuAD rows is empty; use xquad_part=all")
    rows = rows.select(range(first, last))
    columns = {answer_rules.COLUMN: rules, "end_token": xquad_end_token or None}
    return datasets.DatasetDict(validation=_with_columns(rows, columns))


def xquad_pair(*, xquad_frame: str = "plain", **arguments: Any) -> datasets.DatasetDict:
    """Return XQuAD for a prompt that is the same in every language, with the column ``frame``.

    Args:
        xquad_frame: ``plain``, without words; or ``english``, the English instruction whatever the language.
        arguments: As of :func:`xquad`.

    Raises:
        LnbenchError: an unknown frame, or what :func:`xquad` raises.
    """
    if xquad_frame not in XQUAD_FRAMES:
        raise unknown("xquad_frame", xquad_frame, XQUAD_FRAMES)
    rows = xquad(**arguments)["validation"]
    return datasets.DatasetDict(validation=_with_columns(rows, {"frame": xquad_frame}))


def _with_columns(rows: datasets.Dataset, columns: Mapping[str, object]) -> datasets.Dataset:
    """Return rows with a value for all of them in each column; columns without a value are left out."""
    for name, value in columns.items():
        if value is not None:
            rows = rows.add_column(name, [value] * len(rows))
    return rows


def demo_nli(*, lnbench_language: str, lnbench_choices: Sequence[str] = (), **_: object) -> datasets.DatasetDict:
    """Return the embedded sentence pairs as split ``test``, with XNLI's columns."""
    return with_choices(datasets.DatasetDict(test=_demo("nli", lnbench_language, NliRow)), lnbench_choices)


def demo_qa(*, lnbench_language: str, **_: object) -> datasets.DatasetDict:
    """Return the embedded questions as split ``test``, with XQuAD's columns."""
    return datasets.DatasetDict(test=_demo("qa", lnbench_language, QaRow))


def demo_continuation(*, lnbench_language: str, **_: object) -> datasets.DatasetDict:
    """Return the embedded continuations as split ``test``: ``contexts``, ``label``, ``continuation``, ``language``.

    The question is which text a continuation belongs to. Scoring one continuation after several texts, and not several
    after one, leaves out how likely a continuation is by itself, which would hide what it has to do with the text.
    """
    rows = _demo("continuation", lnbench_language, ContinuationRow)
    choices = [
        {"contexts": contexts, "label": label, "continuation": row["continuation"], "language": lnbench_language}
        for row, (contexts, label) in zip(rows, contexts_with_distractors(rows["context"]), strict=True)
    ]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(choices))


def demo_generation(*, lnbench_language: str, **_: object) -> datasets.DatasetDict:
    """Return the embedded beginnings of sentences, to be continued, as split ``test``: ``prompt``, ``language``."""
    return datasets.DatasetDict(test=_demo("prompts", lnbench_language, PromptRow))


def contexts_with_distractors(contexts: Iterable[str]) -> list[tuple[list[str], int]]:
    """Return, for each text, the two texts that its continuation is scored after, and its own place among them.

    The wrong text is the next different one (the last is followed by the first). The true one is first in every other
    row, so that no place is right more often.

    Raises:
        LnbenchError: there are fewer than 2 different texts.
    """
    texts = list(contexts)
    if len(set(texts)) < 2:
        raise LnbenchError("a continuation task needs at least 2 different texts")
    choices = []
    for index, true in enumerate(texts):
        wrong = next(text for text in texts[index + 1 :] + texts[:index] if text != true)
        label = index % 2
        choices.append(([wrong, true] if label else [true, wrong], label))
    return choices


def local_file(folder: Path, stem: str) -> Path | None:
    """Return the file of rows with this stem, compressed or not; None if there is neither."""
    files = (folder / f"{stem}{suffix}" for suffix in (".jsonl.gz", ".jsonl"))
    return next((file for file in files if file.is_file()), None)


def missing_file(folder: Path, stem: str) -> LnbenchError:
    """Return the error for a stem that :func:`local_file` finds no file of."""
    return LnbenchError(
        f"no file {folder / stem}.jsonl.gz (nor .jsonl); put it there, or unset {DATA_VARIABLE} to use the hub"
    )


def load_rows(source: Source, language: str, split: str, folder: Path | None) -> datasets.Dataset:
    """Return one split of a benchmark in one language, from ``folder`` or the hub.

    Raises:
        LnbenchError: unknown language, missing or damaged file, invalid row, or the hub cannot be reached.
    """
    stem = source.stem(language, split)
    if language not in source.languages and (folder is None or local_file(folder, stem) is None):
        hint = f"A folder named by {DATA_VARIABLE} can hold others, as {stem}.jsonl.gz"
        raise unknown(f"{source.hub} language", language, source.languages, hint)
    if folder is None:
        rows = _hub_rows(source, language, split, stem)
    elif file := local_file(folder, stem):
        rows = _file_rows(file)
    else:
        raise missing_file(folder, stem)
    return as_dataset(rows, source.row, language)


def rows_of_file(path: Path, model: type[TaskRow], language: str) -> datasets.Dataset:
    """Return the rows of a file of JSON Lines, compressed or not, each with the column ``language``.

    Raises:
        LnbenchError: a missing or damaged file, or an invalid row.
    """
    return as_dataset(_file_rows(path), model, language)


def _demo(kind: str, language: str, row: type[TaskRow]) -> datasets.Dataset:
    if language not in demo.LANGUAGES:
        raise unknown("demo language", language, demo.LANGUAGES)
    path = demo.DATA / kind / f"{language}.jsonl"
    if not path.is_file():
        raise LnbenchError(f"no file {path}; the installation of lnbench is damaged: install it again")
    return as_dataset(_file_rows(path), row, language)


def _hub_rows(source: Source, language: str, split: str, stem: str) -> Iterator[tuple[str, object]]:
    config = source.config.format(language=language)
    try:
        rows = retried(lambda: datasets.load_dataset(source.hub, config, split=split), source.hub)
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise LnbenchError(
            f"cannot load {source.hub} ({config}, {split}) from the Hugging Face Hub: {error}; connect to it, or set "
            f"{DATA_VARIABLE} to a folder that holds {stem}.jsonl.gz"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield f"{source.hub} ({config}, {split}), row {number}", row


def _file_rows(path: Path) -> Iterator[tuple[str, object]]:
    where = None
    opener = gzip.open if path.suffix == ".gz" else open
    with reading(path):
        try:
            with opener(path, "rt", encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        where = f"{path}, line {number}"
                        yield where, json.loads(line)
        except ValueError as error:
            raise LnbenchError(
                f"{where or path} is not UTF-8 JSON ({error}); copy the file again or mend it"
            ) from error
    if where is None:
        raise LnbenchError(f"{path} holds no rows; copy it again")


def as_dataset(rows: Iterable[tuple[str, object]], model: type[TaskRow], language: str) -> datasets.Dataset:
    """Return rows, each handed with where it is from, as a data set with the column ``language``.

    Raises:
        LnbenchError: an invalid row.
    """
    remedy = f"a row needs {', '.join(model.model_fields)}"
    checked = [validated(model, row, where, remedy).model_dump() for where, row in rows]
    return datasets.Dataset.from_list([row | {"language": language} for row in checked])


@content_hash.remembered
def content_of(task: str, folder: str | None) -> str | None:
    """Return what the data that one of our tasks reads on this machine holds; None: part of lnbench, or on the hub.

    Args:
        task: The task's name, without ``lnbench_``.
        folder: As the metadata key ``lnbench_data``.

    Raises:
        LnbenchError: it is no folder.
    """
    name = _FOLDERS.get(task.partition("_")[0])
    if name is None or (root := data_folder(folder)) is None or not (root / name).is_dir():
        return None
    return content_hash.of_folder(str(root / name))
