"""Files of completions that were made elsewhere: JSON Lines or CSV, each row with its task, source and language."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lnbench.errors import LnbenchError, unknown
from lnbench.files import reading
from lnbench.formats import validated
from lnbench.language_control.lcb import Group

_NO_MODEL = ""
_LONGEST_FIELD = 2**30
"""Of a CSV file, in characters."""


class Completion(BaseModel):
    """One row of a file of completions."""

    model_config = ConfigDict(strict=True, extra="ignore")

    task: str = Field(min_length=1, description="setting, as `crosslingual`")
    source: str = Field(min_length=1, description="where the prompts are from, as `okapi`")
    language: str = Field(min_length=1, description="language that the answer should be in: ISO 639-1")
    completion: str = Field(description="the answer")
    model: str = Field(default=_NO_MODEL, description="who wrote it")


_NEEDED = [name for name, field in Completion.model_fields.items() if field.is_required()]
"""Columns that every file has."""


def read_completions(path: Path, model: str | None = None) -> dict[Group, list[str]]:
    """Return the completions of a file by task, source and language, in its order.

    Args:
        path: JSON Lines, or CSV with a line of headings, compressed by gzip or not: with ``task``, ``source``,
            ``language``, ``completion``, and maybe ``model``. Other columns are passed over.
        model: Whose completions are read, of a file with those of several models.

    Raises:
        LnbenchError: the file cannot be read, a row does not fit, there are no rows, or several models'.
    """
    rows = _rows(path, _text_of(path))
    remedy = f"a row needs {', '.join(_NEEDED)}"
    completions = [validated(Completion, row, where, remedy) for where, row in rows]
    if not completions:
        raise LnbenchError(f"{path} holds no completions; {remedy}")
    models = list(dict.fromkeys(completion.model for completion in completions))
    if model is not None and model not in models:
        raise unknown("model", model, models, f"These are the models in {path}")
    if model is None and len(models) > 1:
        raise LnbenchError(f"{path} holds completions of {len(models)} models; choose one with --model: {models}")
    groups: dict[Group, list[str]] = defaultdict(list)
    for row in completions:
        if model is None or row.model == model:
            groups[row.task, row.source, row.language].append(row.completion)
    return dict(groups)


def _text_of(path: Path) -> str:
    try:
        with reading(path):
            content = path.read_bytes()
            return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LnbenchError(f"{path} is not UTF-8 ({error}); convert it") from error


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield rows with where they are; what kind of file it is, its first character says."""
    if text.lstrip()[:1] == "{":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield f"{path}, line {number}", json.loads(line)
                except ValueError as error:
                    raise LnbenchError(f"{path}, line {number} is not JSON ({error}); copy the file again") from error
        return
    usual = csv.field_size_limit(_LONGEST_FIELD)
    try:
        # As in the benchmark's own reading, every kind of line break is one.
        reader = csv.DictReader(io.StringIO(text, newline=None))
        missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
        if text.strip() and missing:
            raise LnbenchError(
                f"{path} is neither JSON Lines nor CSV with the columns {', '.join(missing)}; its first line is "
                f"{text.strip().splitlines()[0][:80]!r}"
            )
        for row in reader:
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise LnbenchError(f"{path} is not CSV ({error})") from error
    finally:
        csv.field_size_limit(usual)
