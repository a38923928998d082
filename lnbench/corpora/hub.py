"""Datasets of the Hugging Face hub, streamed at one revision."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import cache

from lnbench.errors import LnbenchError

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


def read_hub(repo: str, config: str, revision: str | None, seed: int | None) -> Iterator[str]:
    """Yield the column ``text`` of a streamed hub dataset, shuffled in a moving window unless ``seed`` is None.

    Raises:
        LnbenchError: the dataset cannot be read, or has no such column.
    """
    from datasets import load_dataset

    try:
        data = load_dataset(repo, config, split=SPLIT, streaming=True, revision=revision)
        rows = iter(data if seed is None else data.shuffle(seed=seed, buffer_size=STREAM_WINDOW))
        while (row := next(rows, None)) is not None:
            if not isinstance(row.get("text"), str | None) or "text" not in row:
                raise TypeError(f"it needs a column text of strings; it has: {', '.join(row)}")
            yield row["text"] or ""
    except Exception as error:  # Half a dozen libraries raise their own kinds here.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LnbenchError(
            f"cannot read {config} of the hub dataset {repo} ({reason}); files can be named instead, as in "
            "data/{lang}.jsonl"
        ) from error
