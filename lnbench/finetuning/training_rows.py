"""The lm-eval task that training rows are put to, and where the rows come from.

A task brings the prompt, so that training asks exactly what evaluation asks. The names of :data:`SOURCES` are tasks
of lnbench with training rows in place of the rows that they evaluate; any other name is a task with a training split.

Sources:
    XNLI's English training pairs are MultiNLI's: Williams, Nangia and Bowman 2018, https://aclanthology.org/N18-1101
    SQuAD: Rajpurkar et al. 2016, https://aclanthology.org/D16-1264
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from lm_eval.tasks import TaskManager
from pydantic import Field

from lnbench import task_data
from lnbench.data_folder import data_folder
from lnbench.errors import LnbenchError, unknown
from lnbench.lm.evaluate import Tasks
from lnbench.task_data import XNLI, XQUAD, Answers, NliRow, QaRow, Source, load_rows, local_file

LANGUAGE = "en"
"""Every built-in source is English, as in the paper."""


class _TrainingPair(NliRow):
    label: int = Field(ge=-1, le=2, description="-1: no label")


class _TrainingAnswers(Answers):
    text: list[str]


class _TrainingQuestion(QaRow):
    answers: _TrainingAnswers


_XNLI = replace(XNLI, row=_TrainingPair)
_SQUAD = Source(
    hub="rajpurkar/squad",
    config="plain_text",
    file="squad/{language}.{split}",
    languages=(LANGUAGE,),
    row=_TrainingQuestion,
)


@dataclass(frozen=True)
class RowSource:
    """Training rows for a task of lnbench."""

    task: str
    """Asked in words, for answers in text."""
    text: tuple[str, ...]
    """Columns without which a row is empty."""
    source: Source
    splits: Mapping[str, str]
    """``train``, and ``validation`` where there is one, and the split of the source that each is."""
    frame: str | None = None
    """The metadata key ``xquad_frame`` of a task with one frame in every language."""
    head_task: str | None = None
    """Asked without words, for a classification head; None where answers are text only."""

    def rows(self) -> dict[str, datasets.Dataset]:
        """Read the splits.

        Raises:
            LnbenchError: rows that cannot be had.
        """
        if self.source is XQUAD:
            load = task_data.xquad if self.frame is None else partial(task_data.xquad_pair, xquad_frame=self.frame)
            return {"train": load(lnbench_language=LANGUAGE, xquad_part="first80")["validation"]}
        return {name: load_rows(self.source, LANGUAGE, split, data_folder()) for name, split in self.splits.items()}


_QA_TEXT = ("context", "question")
_XNLI_SPLITS = {"train": "train", "validation": "validation"}
SOURCES: dict[str, RowSource] = {
    "xnli": RowSource(
        "lnbench_xnli_en", ("premise", "hypothesis"), _XNLI, _XNLI_SPLITS, head_task="lnbench_xnli_pair_en"
    ),
    "xquad": RowSource("lnbench_xquad_en", _QA_TEXT, XQUAD, {"train": "validation"}),
    "xquad_pair": RowSource("lnbench_xquad_pair_en", _QA_TEXT, XQUAD, {"train": "validation"}, frame="plain"),
    "xquad_pair_english": RowSource("lnbench_xquad_pair_en", _QA_TEXT, XQUAD, {"train": "validation"}, frame="english"),
    "squad": RowSource("lnbench_xquad_en", _QA_TEXT, _SQUAD, {"train": "train"}),
}


def files_of(name: str) -> list[Path]:
    """List the files on this machine that hold the rows of a key of :data:`SOURCES`; none for rows from elsewhere.

    Raises:
        LnbenchError: ``LNBENCH_DATA`` is no folder.
    """
    folder = data_folder()
    if folder is None or name not in SOURCES:
        return []
    rows = SOURCES[name]
    stems = [rows.source.stem(LANGUAGE, split) for split in rows.splits.values()]
    return [path for stem in stems if (path := local_file(folder, stem))]


@dataclass(frozen=True)
class Rows:
    """A task and its rows."""

    task: Any
    """An lm-eval ``ConfigurableTask``."""
    training: Any
    """A sequence of documents."""
    validation: Any | None
    """None where the task has no rows to measure on besides those that it evaluates."""
    text: tuple[str, ...]
    """Columns without which a row is empty."""


def open_rows(name: str, include_path: str | None = None, *, head: bool = False) -> Rows:
    """Open the task and the rows that ``name`` names.

    Args:
        name: A key of :data:`SOURCES`, or an lm-eval task with a training split. Its validation split counts only if
            there is a test split as well: without one, the validation split is what the task evaluates.
        include_path: Folder with lm-eval tasks of one's own.
        head: Whether a classification head is to answer.

    Raises:
        LnbenchError: unknown name, a group, a task without a training split, or rows that cannot be had.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise LnbenchError(f"no folder of tasks: {include_path}")
    manager = Tasks(include_path)
    source = SOURCES.get(name)
    if source is None:
        return _of_task(name, manager)
    splits = source.rows()
    splits["example"] = splits["train"].select(range(1))
    changes = {
        "custom_dataset": lambda lnbench_choices=(), **_: task_data.with_choices(
            datasets.DatasetDict(splits), lnbench_choices
        ),
        "training_split": "train",
        "validation_split": "validation" if "validation" in splits else None,
        # lm-eval looks at one evaluated row, and lists all few-shot rows, when it builds a task.
        "test_split": "example",
        "fewshot_split": "example",
    }
    task = _build(manager, (source.head_task if head else None) or source.task, changes)
    return Rows(task, task.dataset["train"], task.dataset.get("validation"), source.text)


def _of_task(name: str, manager: Tasks) -> Rows:
    if not manager.has(name):
        hint = "Or the name of an lm-eval task with a training split (lm_eval ls tasks; your own: include_path)"
        raise unknown("training data", name, SOURCES, hint)
    if name not in manager.all_subtasks:
        raise LnbenchError(f"{name} is a group of tasks; name one task to train on")
    task = _build(manager, name, {})
    if not task.has_training_docs():
        raise LnbenchError(
            f"task {name} has no training split; {', '.join(SOURCES)} and lm-eval tasks with a training split can be "
            "trained on"
        )
    validation = task.validation_docs() if task.has_validation_docs() and task.has_test_docs() else None
    return Rows(task, task.training_docs(), validation, ())


def _build(manager: Tasks, name: str, changes: dict[str, Any]) -> Any:
    logger = logging.getLogger("lm_eval.api.task")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its hint on --metadata is about evaluation
    try:
        loaded = TaskManager.load(manager, {"group": "lnbench_training", "task": [{"task": name, **changes}]})
        return loaded["tasks"][name]
    except LnbenchError:
        raise
    except Exception as error:  # the hub's client, and tasks' own code, raise anything
        raise LnbenchError(f"task {name} cannot be loaded: {' '.join(str(error).split()) or repr(error)}") from error
    finally:
        logger.setLevel(level)
