"""The prompts of the lm-eval tasks ``lnbench_lcb_{setting}_{source}_{language}``.

They are read from ``lcb/`` in the folder that the metadata key ``lnbench_data``, else ``$LNBENCH_DATA``, names:
``{setting}.{source}.{language}.jsonl.gz`` (or without ``.gz``), else the benchmark's own ``test_sets.zip``.

Source: Marchisio et al. 2024, https://aclanthology.org/2024.emnlp-main.380
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
from pydantic import Field

from lnbench.data_folder import DATA_VARIABLE, data_folder
from lnbench.errors import LnbenchError, unknown
from lnbench.language_control import segmentation
from lnbench.task_data import TaskRow, as_dataset, local_file, rows_of_file

FOLDER = "lcb"
PROMPT = "prompt"
"""The column with what a model is asked."""
FRAME = "lnbench_frame"
"""The column, and the metadata key, that says how a prompt is put to the model: one of :data:`FRAMES`."""
FRAMES = ("auto", "plain")
"""``plain``: as it is. ``auto``: in the chat template, else after ``Q:`` and before ``A:``; by lnbench's model."""
_ARCHIVE = "test_sets.zip"
_REPOSITORY = "https://github.com/for-ai/language-confusion"


class PromptRow(TaskRow):
    """A question, or a request to answer in another language."""

    prompt: str = Field(min_length=1)


def lcb(
    *,
    lnbench_setting: str,
    lnbench_source: str,
    lnbench_language: str,
    lnbench_data: str | None = None,
    lnbench_frame: object = "auto",
    **_: object,
) -> datasets.DatasetDict:
    """Return the split ``test``: ``prompt``, ``setting``, ``source``, ``lnbench_frame`` and ``language``, the answer's.

    Args:
        lnbench_setting: ``monolingual`` or ``crosslingual``.
        lnbench_source: Where the prompts are from, as ``okapi``.
        lnbench_language: ISO 639-1 code.
        lnbench_data: Folder with the data; by default ``$LNBENCH_DATA``.
        lnbench_frame: One of :data:`FRAMES`.

    Raises:
        LnbenchError: an unknown frame, no folder or file, a damaged one, an invalid row, or the extra ``cjk`` is
            needed and is missing.
    """
    segmentation.check(lnbench_language)
    folder = data_folder(lnbench_data)
    stem = f"{FOLDER}/{lnbench_setting}.{lnbench_source}.{lnbench_language}"
    if folder is not None and (file := local_file(folder, stem)) is not None:
        rows = rows_of_file(file, PromptRow, lnbench_language)
    elif folder is not None and (archive := folder / FOLDER / _ARCHIVE).is_file():
        member = f"test_sets/{lnbench_setting}/{lnbench_source}/{lnbench_language}.csv"
        rows = as_dataset(_archived(archive, member), PromptRow, lnbench_language)
    else:
        where = DATA_VARIABLE if folder is None else f"{folder}"
        raise LnbenchError(
            f"the Language Confusion Benchmark is not on the Hugging Face Hub, and {where} has no {stem}.jsonl.gz: put "
            f"{_ARCHIVE} of {_REPOSITORY} into the folder {FOLDER}/ of the one that {DATA_VARIABLE} names"
        )
    columns = {"setting": lnbench_setting, "source": lnbench_source, FRAME: check_frame(lnbench_frame)}
    for name, value in columns.items():
        rows = rows.add_column(name, [value] * len(rows))
    return datasets.DatasetDict(test=rows)


def check_frame(frame: object) -> str:
    """Return how prompts are put to the model, where there is such a way.

    Raises:
        LnbenchError: there is none of this name.
    """
    if frame not in FRAMES:
        raise unknown(FRAME, frame, FRAMES)
    return str(frame)


def _archived(archive: Path, member: str) -> Iterator[tuple[str, object]]:
    try:
        with zipfile.ZipFile(archive) as files:
            text = files.read(member).decode("utf-8-sig")
    except KeyError as error:
        raise LnbenchError(f"{archive} has no {member}; copy it again") from error
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise LnbenchError(f"{archive} cannot be read ({error}); copy it again") from error
    reader = csv.DictReader(io.StringIO(text, newline=None))
    yield from ((f"{archive}, {member}, line {reader.line_num}", row) for row in reader)
