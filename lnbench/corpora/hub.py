"""Datasets of the Hugging Face hub, streamed at one revision."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lnbench.corpora.readers import TEXT
from lnbench.errors import LnbenchError
from lnbench.passing_faults import WAITS, is_passing

log = logging.getLogger(__name__)
SPLIT = "train"
#: Documents held at a time for shuffling a stream.
STREAM_WINDOW = 10_000
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_revision(repo: str, revision: str | None) -> str | None:
    """Return the commit that ``revision`` (the main branch if None) of the hub's dataset ``repo`` names.

    All languages of a run are read from the same commit. Where the hub cannot be reached it is ``revision`` itself.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        return _commit(repo, revision) or revision
    except Exception as error:  # Offline, private, misspelt: the attempt to read the text says which.
        log.warning(
            "cannot ask the hub which revision of %s is read (%s); name one as in %s:CONFIG@REVISION, so that "
            "another run reads the same",
            *(repo, type(error).__name__, repo),
        )
        return revision


@cache
def _commit(repo: str, revision: str | None) -> str | None:
    """Ask the hub, once per process."""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(repo, revision=revision, timeout=10).sha


def is_clone(repo: str) -> bool:
    """Return whether a dataset's name is a folder on this machine, which is then read."""
    return Path(repo).expanduser().is_dir()


def clone_files(repo: str, config: str) -> list[Path]:
    """Return the files of a clone that hold the split's text.

    Raises:
        LnbenchError: the folder holds no such dataset.
    """
    from datasets import load_dataset_builder

    try:
        named = load_dataset_builder(str(Path(repo).expanduser()), config).config.data_files[SPLIT]
        return sorted(Path(file) for file in named)
    except Exception as error:  # Half a dozen libraries raise their own kinds here.
        raise _unreadable(repo, config, error) from error


def read_hub(repo: str, config: str, revision: str | None, seed: int | None, column: str = TEXT) -> Iterator[str]:
    """Yield a column of a streamed hub dataset, shuffled in a moving window unless ``seed`` is None.

    After a passing fault, such as a time-out, it is opened again where it was.

    Raises:
        LnbenchError: the dataset cannot be read, or has no such column.
    """
    if not is_clone(repo) and "/" in repo and (repo[0] in "~./" or repo.count("/") > 1):
        raise LnbenchError(f"no such folder: {repo}, which the corpus {repo}:{config} names")
    read = failures = 0
    begun = False
    while True:
        try:
            rows = _rows(repo, config, revision, seed, read)
            begun = True
            for row in rows:
                if column not in row or not isinstance(row[column], str | None):
                    raise TypeError(f"it needs a column {column} of strings; it has: {', '.join(row)}")
                yield row[column] or ""
                read, failures = read + 1, 0
            return
        except Exception as error:  # Half a dozen libraries raise their own kinds here.
            if failures == len(WAITS) or not is_passing(error, begun=begun):
                raise _unreadable(repo, config, error, read) from error
            log.warning("%s after %d documents of %s; trying again", _reason(error), read, config)
            time.sleep(WAITS[failures])
            failures += 1


def _rows(repo: str, config: str, revision: str | None, seed: int | None, start: int) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    named = str(Path(repo).expanduser()) if is_clone(repo) else repo
    data = load_dataset(named, config, split=SPLIT, streaming=True, revision=revision)
    data = data if seed is None else data.shuffle(seed=seed, buffer_size=STREAM_WINDOW)
    rows: Iterable[dict[str, Any]] = data.skip(start) if start else data
    return rows


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _unreadable(repo: str, config: str, error: Exception, read: int = 0) -> LnbenchError:
    where = f" after {read:,} documents" if read else ""
    if is_passing(error, begun=True):
        remedy = (
            "the same command continues once it can be reached; files can be named instead, as in data/{lang}.jsonl"
        )
    else:
        remedy = "files can be named instead, as in data/{lang}.jsonl, and another column with --text-column"
    return LnbenchError(f"cannot read {config} of the hub dataset {repo}{where} ({_reason(error)}); {remedy}")
